-- Grain: one item per id. Reads: a validated batch's landing_items. Writes: items; the latest batch wins.
with accepted as (
    select
        landed.item_id,
        landed.title,
        landed.category_path,
        landed.brand,
        landed.price,
        landed.properties,
        landed.available_from,
        landed.available_until,
        row_number() over (partition by landed.item_id order by landed.row_number desc) as latest
    from landing_items as landed
    where
        landed.batch_id = :batch_id
        and not exists (
            select 1
            from quarantine
            where
                quarantine.batch_id = landed.batch_id
                and quarantine.kind = 'items'
                and quarantine.row_number = landed.row_number
        )
)

insert into items (
    item_id, title, category_path, brand, price, properties, available_from, available_until, source
)
select
    item_id,
    title,
    category_path,
    brand,
    cast(price as numeric) as price,
    coalesce(cast(properties as jsonb), '{}') as properties,
    cast(available_from as timestamptz) as available_from,
    cast(available_until as timestamptz) as available_until,
    :source as source
from accepted
where latest = 1
on conflict (item_id) do update set
    title = excluded.title,
    category_path = excluded.category_path,
    brand = excluded.brand,
    price = excluded.price,
    properties = excluded.properties,
    available_from = excluded.available_from,
    available_until = excluded.available_until,
    source = excluded.source,
    updated_at = now()
