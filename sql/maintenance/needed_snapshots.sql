-- Grain: one snapshot to keep: younger than :keep, one of the latest three, or of the last three promotions or
-- rollbacks. Reads: snapshots, promotions.
select snapshot_id
from snapshots
where created_at > now() - cast(:keep as interval)
union
(
    select snapshot_id
    from snapshots
    order by has_explicit_cutoff asc, created_at desc
    limit 3
)
union
(
    select snapshot_id
    from promotions
    where decision in ('promoted', 'rolled_back')
    order by promotion_id desc
    limit 3
)
