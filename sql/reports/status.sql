-- Grain: one row. The state of the loop in counts.
select
    (select count(*) from events) as events,
    (select count(*) from items) as items,
    (select count(*) from users) as users,
    (select count(distinct (batch_id, kind, row_number)) from quarantine) as quarantine,
    (select snapshot_id from snapshots order by created_at desc, snapshot_id limit 1) as last_snapshot,
    (
        select model_version
        from promotions
        where decision in ('promoted', 'rolled_back')
        order by promotion_id desc
        limit 1
    ) as champion,
    (
        select extract(epoch from now() - max(finished_at))
        from batches
        where source = 'feedback' and status = 'loaded'
    ) as feedback_lag_seconds
