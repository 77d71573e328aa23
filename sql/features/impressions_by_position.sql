-- Grain: one item at one list position, in the 28 days before the cut-off, as of change :as_of_change.
-- Inputs: shopper_impressions (impressions to shoppers, without bots and internal traffic).
-- Output: the numbers of impressions and of clicks.
select
    item_id,
    place as position,
    count(*) as shown,
    count(*) filter (where acted) as acted
from shopper_impressions(:cutoff, :as_of_change, 28)
where place <= :max_positions
group by item_id, place
order by item_id collate "C", place
