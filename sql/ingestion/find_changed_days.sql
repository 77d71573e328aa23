-- Grain: one day (UTC) whose events the batch changes, with the number of added events (0 for a replaced event's old
-- day). Reads: arriving_events, known_events.
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
