-- Grain: one row, the number of days (UTC) without an event of a source: within a staged batch, and between it and the
-- source's events of the 28 days before it. Null unless the source has events on nine of ten of those days, at least
-- seven. Reads: staged_events, batch_days, batches.
with staged as (
    select distinct cast(event_time at time zone 'UTC' as date) as day
    from staged_events
    where broken_rules is null
),

bounds as (
    select
        min(day) as first_day,
        max(day) as last_day
    from staged
),

stored as (
    select distinct batch_days.day
    from batch_days
    inner join batches on batch_days.change_number = batches.change_number
    cross join bounds
    where
        batches.source = :source
        and batches.status = 'loaded'
        and batch_days.events > 0
        and batch_days.day >= bounds.first_day - 28
),

usual as (
    select
        min(stored.day) as since,
        max(stored.day) as last_day,
        count(*) as days
    from stored
    cross join bounds
    where stored.day < bounds.first_day
)

select
    case
        when usual.days >= 7 and usual.days >= 0.9 * (usual.last_day - usual.since + 1) then (
            select cast(count(*) as double precision)
            from generate_series(usual.last_day + 1, bounds.last_day, interval '1 day') as expected (day)
            where
                not exists (
                    select 1 from staged
                    where staged.day = cast(expected.day as date)
                )
                and not exists (
                    select 1 from stored
                    where stored.day = cast(expected.day as date)
                )
        )
    end as missing_days
from usual
cross join bounds
