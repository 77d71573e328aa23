-- Grain: one batch, latest first; the last 10.
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
