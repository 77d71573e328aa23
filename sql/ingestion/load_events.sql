-- Grain: one event. Reads: arriving_events. Writes: events, for :months or for :all_months.
insert into events (
    event_id, event_key, user_id, session_id, item_id, event_type, event_time, query, quantity, price, request_id,
    position, properties, source, batch, row_number, content
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
    :source as source,
    cast(:batch as integer) as batch,
    row_number,
    content
from arriving_events
where :all_months or date_trunc('month', event_time at time zone 'UTC') = any(cast(:months as timestamp[]))
