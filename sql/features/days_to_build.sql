-- Grain: one day (UTC) with events before the cut-off.
-- Inputs: batch_days.
-- Output: the day, and the last change up to :as_of_change that touched it.
select
    day,
    max(change_number) as last_change
from batch_days
where change_number <= :as_of_change and day < cast(:cutoff as timestamptz) at time zone 'UTC'
group by day
order by day
