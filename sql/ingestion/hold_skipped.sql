-- Grain: one valid staged event that is not loaded, because it is a duplicate or a conflict.
-- Reads: staged_events, skipped_events. Writes: held_events.
insert into held_events (
    event_id, event_key, user_id, session_id, item_id, event_type, event_time, query, quantity, price, request_id,
    position, properties, source, batch, row_number, content, reason
)
select
    staged.event_id,
    staged.event_key,
    staged.user_id,
    staged.session_id,
    staged.item_id,
    staged.event_type,
    staged.event_time,
    staged.query,
    staged.quantity,
    staged.price,
    staged.request_id,
    staged.position,
    staged.properties,
    :source as source,
    cast(:batch as integer) as batch,
    staged.row_number,
    staged.content,
    case when skipped.is_same then 'duplicate' else 'conflict' end as reason
from skipped_events as skipped
inner join staged_events as staged on skipped.row_number = staged.row_number
