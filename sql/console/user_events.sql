-- Grain: one action of a user; the latest 50. Impressions are excluded.
with latest as (
    select
        event_id,
        event_time,
        event_type,
        item_id,
        query
    from events
    where user_id = :user_id and event_type <> 'impression'
    order by event_time desc, event_id asc
    limit 50
)

select
    latest.event_time,
    latest.event_type,
    latest.query,
    coalesce(items.title, latest.item_id) as title
from latest
left join items on latest.item_id = items.item_id
order by latest.event_time desc, latest.event_id asc
