-- Grain: one day (UTC) with changes that no snapshot up to now includes. Inputs: batch_days, snapshots.
select distinct day
from batch_days
where
    change_number > (
        select coalesce(max(as_of_change), 0)
        from snapshots
        where not has_chosen_cutoff
    )
order by day
