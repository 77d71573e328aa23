-- Grain: one item at one place of the lists of the weeks before the cut-off, as far as the batches up to :known tell:
-- how often it was shown there, and how often it was acted on. Only what shoppers were shown counts.
select
    item_id,
    place as position,
    count(*) as shown,
    count(*) filter (where acted) as acted
from shown_before(:cutoff, :known, 28)
where place <= :places
group by item_id, place
order by item_id collate "C", place
