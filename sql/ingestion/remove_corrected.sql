-- Grain: one stored event that a staged event with the same id replaces. Reads: known_events, skipped_events.
-- Writes: events, held_events.
with removed as (
    delete from events using known_events as known
    where
        not known.is_same
        and events.event_time = known.event_time
        and events.event_key = known.event_key
        and not exists (
            select 1 from skipped_events
            where skipped_events.row_number = known.row_number
        )
    returning events.*
)

insert into held_events (
    event_id, event_key, user_id, session_id, item_id, event_type, event_time, query, quantity, price, request_id,
    position, properties, source, batch, row_number, content, ingested_at, reason
)
select
    event_id,
    event_key,
    user_id,
    session_id,
    item_id,
    event_type,
    event_time,
    query,
    quantity,
    price,
    request_id,
    position,
    properties,
    source,
    batch,
    row_number,
    content,
    ingested_at,
    'replaced' as reason
from removed
