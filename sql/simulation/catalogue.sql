-- Grain: one item with a view, cart addition or purchase; its number of actions and median price.
select
    items.item_id,
    coalesce(items.title, '') as title,
    coalesce(items.category_path, '') as category_path,
    cast(
        coalesce(
            percentile_cont(0.5) within group (
                order by finite_number(cast(events.price as text))
            ),
            finite_number(cast(max(items.price) as text)),
            1
        ) as double precision
    ) as price,
    count(*) as taken
from events
inner join items on events.item_id = items.item_id
where events.event_type in ('view', 'add_to_cart', 'purchase') and events.source <> 'feedback'
group by items.item_id, items.title, items.category_path
order by items.item_id collate "C"
