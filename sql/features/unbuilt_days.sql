-- Grain: one day (UTC) with changes that no snapshot without an explicit cutoff includes.
-- Inputs: batch_days, snapshots.
select distinct day
from batch_days
where
    change_number > (
        select coalesce(max(as_of_change), 0)
        from snapshots
        where not has_explicit_cutoff
    )
order by day
