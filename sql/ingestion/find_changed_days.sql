-- Grain: one day (UTC) on which loading a batch changes events, with how many it adds.
with changes as (
    select
        cast(event_time at time zone 'UTC' as date) as day,
        count(*) as events
    from arriving_events
    group by 1
    union all
    select
        cast(event_time at time zone 'UTC' as date) as day,
        0 as events
    from known_events
    where not is_same
    group by 1
)

select
    day,
    sum(events) as events
from changes
group by day
order by day
