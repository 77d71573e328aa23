-- Grain: one unknown item referenced by events, added with its id only. Reads: implied_items. Writes: item_versions.
insert into item_versions (item_id, valid_from, batch, implied, source)
select
    item_id,
    cast('-infinity' as timestamptz) as valid_from,
    cast(:batch as integer) as batch,
    true as implied,
    :source as source
from implied_items as implied
where
    not exists (
        select 1 from item_versions
        where item_versions.item_id = implied.item_id
    )
