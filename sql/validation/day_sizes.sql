-- Grain: one row, of the valid events of a staged batch: the number of events of the day (UTC) of a typical event, and
-- the weekday (0 is Sunday) of the day with most of them. Days with few stragglers hardly count. Reads: staged_events.
with days as (
    select
        cast(event_time at time zone 'UTC' as date) as day,
        count(*) as events
    from staged_events
    where broken_rules is null
    group by 1
)

select
    coalesce(cast(sum(events * events) / sum(events) as double precision), 0) as rows_per_day,
    cast((array_agg(extract(dow from day) order by events desc, day asc))[1] as double precision) as weekday
from days
