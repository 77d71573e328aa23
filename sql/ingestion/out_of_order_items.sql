-- Grain: one item of which the batch delivers a value for a time before another delivery that is stored.
-- Reads: staged_items, item_versions, held_item_versions. Writes: affected_items.
create temporary table affected_items on commit drop as
with stored as (
    select
        item_id,
        valid_from
    from item_versions
    union all
    select
        item_id,
        valid_from
    from held_item_versions
)

select distinct staged.item_id
from staged_items as staged
inner join stored on staged.item_id = stored.item_id and staged.valid_from < stored.valid_from
where staged.broken_rules is null
