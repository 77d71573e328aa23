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
    event_time,
    event_type,
    query,
    -- Item by item: a join would compute the whole view.
    coalesce(
        (
            select items.title
            from items
            where items.item_id = latest.item_id
        ),
        item_id
    ) as title
from latest
order by event_time desc, event_id asc
