-- Creates the monthly partitions of held events that may become visible. Reads: vacated_events, held_events.
select create_event_month(cast(months.month as date))
from (
    select distinct date_trunc('month', held.event_time at time zone 'UTC') as month
    from held_events as held
    inner join vacated_events as vacated on held.event_key = vacated.event_key
) as months
