-- Removes the items that a batch delivered. Writes: item_versions, held_item_versions, and affected_items: their ids.
create temporary table affected_items on commit drop as
select item_id
from item_versions
where batch = :batch
union
select item_id
from held_item_versions
where batch = :batch
