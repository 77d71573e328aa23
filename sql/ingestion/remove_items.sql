-- Grain: one item of which a batch delivered a version. A delivery equal to the one before it changes no other.
-- Reads: item_versions. Writes: affected_items.
create temporary table affected_items on commit drop as
select distinct item_id
from item_versions
where batch = :batch
