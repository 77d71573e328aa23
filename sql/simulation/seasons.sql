-- Grain: one category and month of the year, with the number of actions.
select
    coalesce(items.category_path, '') as category_path,
    cast(extract(month from events.event_time) as integer) as month,
    count(*) as taken
from events
inner join items on events.item_id = items.item_id
where events.event_type in ('view', 'add_to_cart', 'purchase') and events.source <> 'feedback'
group by 1, 2
