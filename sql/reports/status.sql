-- Grain: one row. The state of the loop in counts.
with quarantined as (
    select distinct
        batch_id,
        kind,
        row_number
    from quarantine
),

last_snapshot as (
    select snapshot_id
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
    (select snapshot_id from last_snapshot) as last_snapshot,
    (select model_version from last_promotion) as champion,
    (select lag_seconds from last_feedback) as feedback_lag_seconds
