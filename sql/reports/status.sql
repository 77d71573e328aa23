-- Grain: one row. The state of the loop in counts; by source, see the view source_status.
with quarantined as (
    select distinct
        batch_id,
        kind,
        row_number
    from quarantine
    where resolved_at is null
),

rejected as (
    select batch_id
    from batches
    where status = 'rejected'
),

loaded as (
    select last_event
    from batches
    where status = 'loaded'
),

last_snapshot as (
    select
        snapshot_id,
        cutoff
    from snapshots
    order by created_at desc, snapshot_id asc
    limit 1
),

last_promotion as (
    select model_version
    from promotions
    where decision in ('promoted', 'rolled_back')
    order by promotion_id desc
    limit 1
),

last_feedback as (
    select extract(epoch from now() - max(finished_at)) as lag_seconds
    from batches
    where source = 'feedback' and status = 'loaded'
)

select
    (select count(*) from events) as events,
    (select count(*) from items) as items,
    (select count(*) from users) as users,
    (select count(*) from quarantined) as quarantine,
    (select count(*) from rejected) as rejected_batches,
    (select max(last_event) from loaded) as last_event,
    (select snapshot_id from last_snapshot) as last_snapshot,
    (select cutoff from last_snapshot) as snapshot_cutoff,
    (select model_version from last_promotion) as champion,
    (select lag_seconds from last_feedback) as feedback_lag_seconds
