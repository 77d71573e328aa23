-- Grain: one row, of the valid events of a staged batch: the number of events of the day (UTC) of a typical event (days
-- with few stragglers hardly count), the day with most of them (since 1970), its weekday (0 is Sunday), and how many
-- hours of it the events span. Reads: staged_events.
with days as (
    select
        cast(event_time at time zone 'UTC' as date) as day,
        count(*) as events,
        extract(epoch from max(event_time) - min(event_time)) / 3600 as hours
    from staged_events
    where broken_rules is null
    group by 1
)

select
    coalesce(cast(sum(events * events) / sum(events) as double precision), 0) as rows_per_day,
    cast((array_agg(day order by events desc, day asc))[1] - date '1970-01-01' as double precision) as main_day,
    cast(extract(dow from (array_agg(day order by events desc, day asc))[1]) as double precision) as weekday,
    cast((array_agg(hours order by events desc, day asc))[1] as double precision) as hours
from days
