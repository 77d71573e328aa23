-- Grain: one row: feedback rows read and quarantined in the 24 hours up to the last feedback batch.
select
    coalesce(sum(read_rows), 0) as read_rows,
    coalesce(sum(quarantined_rows), 0) as refused_rows
from batches
where
    source = 'feedback'
    and status = 'loaded'
    and landed_at > (
        select max(last.landed_at) - interval '1 day'
        from batches as last
        where last.source = 'feedback'
    )
