-- Grain: one row: the latest event, snapshot and feedback. No rows of events are counted: that takes long.
with last_snapshot as (
    select
        snapshot_id,
        cutoff
    from snapshots
    order by has_explicit_cutoff asc, created_at desc, snapshot_id asc
    limit 1
)

select
    (
        select max(last_event)
        from batches
        where status = 'loaded'
    ) as last_event,
    (select snapshot_id from last_snapshot) as last_snapshot,
    (select cutoff from last_snapshot) as snapshot_cutoff,
    (
        select extract(epoch from now() - max(finished_at)) / 60
        from batches
        where source = 'feedback' and status = 'loaded'
    ) as feedback_lag_minutes
