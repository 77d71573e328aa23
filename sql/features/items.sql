-- Grain: one item that users acted on before the cut-off. Inputs: items, events.
-- Output: its attributes and how often it was acted on before training ends, which decides about the vocabulary.
with counted as (
    select
        item_id,
        count(*) as training_events
    from events
    where event_time < :training_end and item_id is not null and event_type <> 'impression'
    group by item_id
)

select
    items.item_id,
    items.title,
    items.category_path,
    items.brand,
    counted.training_events
from counted
inner join items on counted.item_id = items.item_id
where counted.training_events >= :min_item_events
order by counted.training_events desc, items.item_id asc
