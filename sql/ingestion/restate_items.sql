-- Decides anew which delivered items are versions: those that differ from the delivery before them in time. For the
-- items of affected_items. Without a time of its own, the first delivery of all is valid from -infinity, a later one
-- from its landing. Reads: affected_items, batches. Writes: item_versions, held_item_versions.
create temporary table restated_items on commit drop as
with deliveries as (
    select
        *,
        true as was_version
    from item_versions
    where item_id in (select item_id from affected_items) and not implied
    union all
    select *
    from held_item_versions
    where item_id in (select item_id from affected_items)
),

numbered as (
    select
        deliveries.*,
        batches.landed_at,
        -- The batch that is being loaded has no number yet; rows of the first warehouse have no batch.
        case when deliveries.batch = 0 then 0 else coalesce(batches.change_number, 2147483647) end as change_number
    from deliveries
    left join batches on deliveries.batch = batches.number
),

dated_anew as (
    select
        item_id,
        case
            when dated then valid_from
            when change_number = min(change_number) over (partition by item_id) then '-infinity'
            else landed_at
        end as valid_from,
        batch,
        title,
        category_path,
        brand,
        price,
        properties,
        available_from,
        available_until,
        source,
        updated_at,
        dated,
        row_number,
        was_version,
        change_number,
        cast(
            row(title, category_path, brand, trim_scale(price), properties, available_from, available_until) as text
        ) as content
    from numbered
)

select
    *,
    row_number() over in_time = 1 or lag(content) over in_time <> content as is_change
from dated_anew
window in_time as (partition by item_id order by valid_from, change_number, row_number);

delete from item_versions
where item_id in (select item_id from affected_items) and not implied;
delete from held_item_versions
where item_id in (select item_id from affected_items);

insert into item_versions (
    item_id, valid_from, batch, title, category_path, brand, price, properties, available_from, available_until,
    source, updated_at, dated, row_number
)
select
    item_id,
    valid_from,
    batch,
    title,
    category_path,
    brand,
    price,
    properties,
    available_from,
    available_until,
    source,
    updated_at,
    dated,
    row_number
from restated_items
where is_change
on conflict (item_id, valid_from, batch) do nothing;

insert into held_item_versions (
    item_id, valid_from, batch, title, category_path, brand, price, properties, available_from, available_until,
    source, updated_at, dated, row_number, was_version
)
select
    item_id,
    valid_from,
    batch,
    title,
    category_path,
    brand,
    price,
    properties,
    available_from,
    available_until,
    source,
    updated_at,
    dated,
    row_number,
    was_version
from restated_items
where not is_change;

drop table restated_items, affected_items;
