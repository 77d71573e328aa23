-- Grain: one version of an item: what a batch says of it, where that differs from what held at that time.
-- Reads: staged_items. Writes: item_versions. What is said of an item first holds from the beginning; what is said
-- later holds from the time the source names or else from when it was landed.
with latest as (
    select distinct on (item_id, valid_from) *
    from staged_items
    where broken_rules is null
    order by item_id asc, valid_from asc, row_number desc
),

dated as (
    select
        latest.*,
        coalesce(
            latest.valid_from,
            case
                when
                    exists (
                        select 1 from item_versions
                        where item_versions.item_id = latest.item_id and not item_versions.implied
                    )
                    then cast(:landed_at as timestamptz)
                else '-infinity'
            end
        ) as holds_from
    from latest
)

insert into item_versions (
    item_id, valid_from, batch, title, category_path, brand, price, properties, available_from, available_until, source
)
select
    dated.item_id,
    dated.holds_from as valid_from,
    cast(:batch as integer) as batch,
    dated.title,
    dated.category_path,
    dated.brand,
    dated.price,
    dated.properties,
    dated.available_from,
    dated.available_until,
    :source as source
from dated
left join lateral (
    select *
    from item_versions
    where item_id = dated.item_id and valid_from <= dated.holds_from
    order by valid_from desc, batch desc
    limit 1
) as held on true
where
    held.item_id is null
    or held.implied
    or (
        dated.title, dated.category_path, dated.brand, dated.price, dated.properties, dated.available_from,
        dated.available_until
    ) is distinct from (
        held.title, held.category_path, held.brand, held.price, held.properties, held.available_from,
        held.available_until
    )
-- Sorted, so that all is read before any of it is written: whoever reads this table through for each row, as the
-- planner does where it was analyzed when empty, would go through what is being written, too.
order by dated.row_number
on conflict (item_id, valid_from, batch) do nothing
