-- Grain: one day (UTC) that has events before the cut-off, and the last of the changes up to :known that touched it.
select
    day,
    max(loaded_number) as last_change
from batch_days
where loaded_number <= :known and day < cast(:cutoff as timestamptz) at time zone 'UTC'
group by day
order by day
