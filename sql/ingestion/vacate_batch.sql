-- Grain: one event of a batch, which lies between :first_event and :last_event. Writes: events, vacated_events.
with removed as (
    delete from events
    where batch = :batch and event_time between :first_event and :last_event
    returning source, event_id, event_key, event_time
)

insert into vacated_events (source, event_id, event_key, event_time)
select
    source,
    event_id,
    event_key,
    event_time
from removed
