-- Grain: one event type of a batch's visible events, with their number, users and items. Reads: events, batches.
select
    events.event_type,
    count(*) as num_events,
    array_agg(distinct events.user_id) filter (where events.user_id is not null) as user_ids,
    array_agg(distinct events.item_id) filter (where events.item_id is not null) as item_ids
from events
inner join batches on events.batch = batches.number
where
    batches.batch_id = :batch_id
    and events.event_time between batches.first_event and batches.last_event
group by events.event_type
