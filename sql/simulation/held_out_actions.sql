-- Grain: one action with an item since :held_out_start, without simulated ones, in order of time.
select
    coalesce(events.user_id, '') as user_id,
    events.item_id,
    coalesce(events.session_id, cast(cast(events.event_time as date) as text)) as session_id,
    cast(extract(epoch from events.event_time) as double precision) as seconds
from events
where
    events.event_time >= cast(:held_out_start as timestamptz)
    and events.event_type in ('view', 'add_to_cart', 'purchase')
    and events.item_id is not null
    and events.source <> 'feedback'
order by user_id collate "C", seconds, session_id collate "C", events.event_key
