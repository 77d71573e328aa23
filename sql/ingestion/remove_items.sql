-- Grain: one item of which a batch delivered a version, or what was one. Other deliveries equal the one before
-- them and change no other. Reads: item_versions, held_item_versions. Writes: affected_items.
create temporary table affected_items on commit drop as
select item_id
from item_versions
where batch = :batch
union
select item_id
from held_item_versions
where batch = :batch and was_version
