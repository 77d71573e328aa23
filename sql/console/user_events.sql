-- Grain: one action of a user, latest first; 50. Impressions are left out.
select
    events.event_time,
    events.event_type,
    events.item_id,
    events.query,
    coalesce(items.title, events.item_id) as title
from events
left join items on events.item_id = items.item_id
where events.user_id = :user_id and events.event_type <> 'impression'
order by events.event_time desc, events.event_id asc
limit 50
