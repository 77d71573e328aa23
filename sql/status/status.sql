-- Grain: one row: state of the loop in counts. The view source_status has it by source.
with in_batches as (
    select
        count(*) filter (where status = 'rejected') as rejected,
        max(last_event) filter (where status = 'loaded') as last_event,
        extract(
            epoch from now() - max(finished_at) filter (where source = 'feedback' and status = 'loaded')
        ) as feedback_lag_seconds
    from batches
),

last_snapshot as (
    select
        snapshot_id,
        cutoff
    from snapshots
    order by has_explicit_cutoff asc, created_at desc, snapshot_id asc
    limit 1
),

last_promotion as (
    select model_version
    from promotions
    where decision in ('promoted', 'rolled_back')
    order by promotion_id desc
    limit 1
)

select
    (select count(*) from events) as events,
    (select count(*) from items) as items,
    (select count(*) from users) as users,
    (select count(*) from open_quarantine) as quarantine,
    (select rejected from in_batches) as rejected_batches,
    (select last_event from in_batches) as last_event,
    (select snapshot_id from last_snapshot) as last_snapshot,
    (select cutoff from last_snapshot) as snapshot_cutoff,
    (select model_version from last_promotion) as champion,
    (select feedback_lag_seconds from in_batches) as feedback_lag_seconds
