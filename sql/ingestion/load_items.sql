-- Grain: one new version of an item: a staged item that differs from the version valid at that time.
-- Reads: staged_items. Writes: item_versions. Without `valid_from`, the first version is valid from -infinity, a later
-- one from its landing time.
with deduplicated as (
    select distinct on (item_id, valid_from) *
    from staged_items
    where broken_rules is null
    order by item_id asc, valid_from asc, row_number desc
),

dated as (
    select
        deduplicated.*,
        coalesce(
            deduplicated.valid_from,
            case
                when
                    exists (
                        select 1 from item_versions
                        where item_versions.item_id = deduplicated.item_id and not item_versions.implied
                    )
                    then cast(:landed_at as timestamptz)
                else '-infinity'
            end
        ) as effective_from
    from deduplicated
)

insert into item_versions (
    item_id, valid_from, batch, title, category_path, brand, price, properties, available_from, available_until, source
)
select
    dated.item_id,
    dated.effective_from as valid_from,
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
    where item_id = dated.item_id and valid_from <= dated.effective_from
    order by valid_from desc, batch desc
    limit 1
) as previous on true
where
    previous.item_id is null
    or previous.implied
    or (
        dated.title, dated.category_path, dated.brand, dated.price, dated.properties, dated.available_from,
        dated.available_until
    ) is distinct from (
        previous.title, previous.category_path, previous.brand, previous.price, previous.properties,
        previous.available_from, previous.available_until
    )
-- The sort reads all rows before the first insert. Otherwise a sequential scan per row, which the planner chooses after
-- analyzing the empty table, would also scan the rows being inserted.
order by dated.row_number
on conflict (item_id, valid_from, batch) do nothing
