-- Grain: one batch, the latest 10, latest first.
select
    batch_id,
    source,
    status,
    read_rows,
    inserted_rows,
    quarantined_rows,
    finished_at
from batches
order by number desc
limit 10
