-- Grain: one item that events name and the warehouse lacks; nothing else is known of it. Writes: item_versions.
insert into item_versions (item_id, valid_from, batch, implied, source)
select
    item_id,
    cast('-infinity' as timestamptz) as valid_from,
    cast(:batch as integer) as batch,
    true as implied,
    :source as source
from implied_items as named
where
    not exists (
        select 1 from item_versions
        where item_versions.item_id = named.item_id
    )
