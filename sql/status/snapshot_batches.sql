-- Grain: one batch a snapshot was built from.
select *  -- noqa: AM04
from snapshot_batches
where snapshot_id = :snapshot_id
order by loaded_number
