-- Grain: one item that events of a loaded batch name, and that has no version left. Adds it with its id only.
-- Reads: orphaned_items, events, held_events, batches. Writes: item_versions.
with named as (
    select
        item_id,
        batch
    from events
    where item_id in (select item_id from orphaned_items)
    union all
    select
        item_id,
        batch
    from held_events
    where item_id in (select item_id from orphaned_items)
)

insert into item_versions (item_id, valid_from, batch, implied, source)
select distinct on (named.item_id)
    named.item_id,
    cast('-infinity' as timestamptz) as valid_from,
    named.batch,
    true as implied,
    batches.source
from named
inner join batches on named.batch = batches.number
where
    batches.implies_items
    and batches.status = 'loaded'
    and not exists (
        select 1 from item_versions
        where item_versions.item_id = named.item_id
    )
order by named.item_id asc, batches.change_number asc
