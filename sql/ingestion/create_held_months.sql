-- Creates the monthly partitions of held events that may become visible. Reads: vacated_events,
-- unhidden_events, held_events.
select create_event_month(cast(months.month as date))
from (
    select distinct date_trunc('month', held.event_time at time zone 'UTC') as month
    from held_events as held
    where
        event_key in (select event_key from vacated_events)
        or held_id in (select held_id from unhidden_events)
) as months
