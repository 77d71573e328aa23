-- Grain: one day (UTC) that a removal changed, with the change in its number of events.
-- Reads: vacated_events, restored_events.
select
    cast(event_time at time zone 'UTC' as date) as day,
    sum(change) as events
from (
    select
        event_time,
        -1 as change
    from vacated_events
    union all
    select
        event_time,
        1 as change
    from restored_events
) as changes
group by 1
order by 1
