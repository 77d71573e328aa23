-- Grain: one batch of a snapshot.
select *  -- noqa: AM04
from snapshot_batches
where snapshot_id = :snapshot_id
order by change_number
