-- Grain: one loaded batch. The rows per day of a source's latest batches that covered an interval.
select read_rows / greatest(extract(epoch from interval_end - interval_start) / 86400.0, 1.0) as rows_per_day
from batches
where
    source = :source
    and status = 'loaded'
    and interval_start is not null
    and batch_id <> :batch_id
order by interval_end desc
limit 8
