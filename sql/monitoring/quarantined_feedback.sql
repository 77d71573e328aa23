-- Grain: one row: feedback rows read in the 24 hours up to the last feedback batch, and those of them in quarantine for
-- a reason that the endpoint should have refused: a caller cannot cause it.
with latest as (
    select
        batch_id,
        read_rows
    from batches
    where
        source = 'feedback'
        and status = 'loaded'
        and landed_at > (
            select max(last.landed_at) - interval '1 day'
            from batches as last
            where last.source = 'feedback'
        )
),

refused as (
    select distinct
        quarantine.batch_id,
        quarantine.kind,
        quarantine.row_number
    from quarantine
    inner join latest on quarantine.batch_id = latest.batch_id
    where quarantine.rule <> all(:caused_by_callers)
)

select
    (select coalesce(sum(read_rows), 0) from latest) as read_rows,
    (select count(*) from refused) as refused_rows
