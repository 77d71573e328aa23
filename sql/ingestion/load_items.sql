-- Grain: one new version of an item: a staged item that differs from the version valid at that time, stored or staged.
-- Reads: staged_items. Writes: item_versions, and held_item_versions for staged items that do not differ. Without
-- `valid_from`, the first version is valid from -infinity, a later one from its landing time.
with deduplicated as (
    select distinct on (item_id, valid_from) *
    from staged_items
    where broken_rules is null
    order by item_id asc, valid_from asc, row_number desc
),

dated as (
    select
        row_number,
        item_id,
        coalesce(
            valid_from,
            case
                when
                    exists (
                        select 1 from item_versions
                        where item_versions.item_id = deduplicated.item_id and not item_versions.implied
                    )
                    then cast(:landed_at as timestamptz)
                else '-infinity'
            end
        ) as valid_from,
        valid_from is not null as dated,
        title,
        category_path,
        brand,
        price,
        properties,
        available_from,
        available_until
    from deduplicated
),

ordered as (
    select
        *,
        lag(row_number) over (
            partition by item_id
            order by valid_from asc, row_number asc
        ) as previous_row
    from dated
),

changes as (
    select ordered.*
    from ordered
    left join dated as staged on ordered.previous_row = staged.row_number
    left join lateral (
        select *
        from item_versions
        where item_id = ordered.item_id and valid_from <= ordered.valid_from
        order by
            valid_from desc,
            implied asc,
            (
                select change_number from batches
                where number = item_versions.batch
            ) desc nulls last
        limit 1
    ) as stored on true
    where
        case
            -- The staged version before this one is later than the stored one, or replaces it.
            when staged.valid_from >= coalesce(stored.valid_from, '-infinity')
                then (
                    ordered.title, ordered.category_path, ordered.brand, ordered.price, ordered.properties,
                    ordered.available_from, ordered.available_until
                ) is distinct from (
                    staged.title, staged.category_path, staged.brand, staged.price, staged.properties,
                    staged.available_from, staged.available_until
                )
            else
                stored.item_id is null
                or stored.implied
                or (
                    ordered.title, ordered.category_path, ordered.brand, ordered.price, ordered.properties,
                    ordered.available_from, ordered.available_until
                ) is distinct from (
                    stored.title, stored.category_path, stored.brand, stored.price, stored.properties,
                    stored.available_from, stored.available_until
                )
        end
),

held as (
    insert into held_item_versions (
        item_id, valid_from, batch, title, category_path, brand, price, properties, available_from, available_until,
        source, dated, row_number
    )
    select
        item_id,
        valid_from,
        cast(:batch as integer) as batch,
        title,
        category_path,
        brand,
        price,
        properties,
        available_from,
        available_until,
        :source as source,
        dated,
        row_number
    from ordered
    where not exists (
        select 1 from changes
        where changes.row_number = ordered.row_number
    )
)

insert into item_versions (
    item_id, valid_from, batch, title, category_path, brand, price, properties, available_from, available_until, source,
    dated, row_number
)
select
    item_id,
    valid_from,
    cast(:batch as integer) as batch,
    title,
    category_path,
    brand,
    price,
    properties,
    available_from,
    available_until,
    :source as source,
    dated,
    row_number
from changes
-- The sort reads all rows before the first insert. Otherwise a sequential scan per row, which the planner chooses after
-- analyzing the empty table, would also scan the rows being inserted.
order by row_number
on conflict (item_id, valid_from, batch) do nothing
