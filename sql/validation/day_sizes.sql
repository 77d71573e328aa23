-- Grain: one row, of the valid events of a staged batch: the number of events of the day (UTC) of a typical event (days
-- with few stragglers hardly count), the main day (most events) as days since 1970, its weekday (0 is Sunday), and in
-- how many hours of the day there are events. Reads: staged_events.
with hours_of_days as (
    select
        date_trunc('hour', event_time at time zone 'UTC') as began_at,
        count(*) as events
    from staged_events
    where broken_rules is null
    group by 1
),

days as (
    select
        cast(began_at as date) as day,
        sum(events) as events
    from hours_of_days
    group by 1
),

main as (
    select day
    from days
    order by events desc, day asc
    limit 1
)

select
    coalesce((select cast(sum(events * events) / sum(events) as double precision) from days), 0) as rows_per_day,
    (select cast(day - date '1970-01-01' as double precision) from main) as main_day,
    (select cast(extract(dow from day) as double precision) from main) as weekday,
    (select cast(count(distinct extract(hour from began_at)) as double precision) from hours_of_days) as hours
