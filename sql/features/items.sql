-- Grain: one item, with the attributes that held at the cut-off as far as the batches up to :known tell.
with told as (
    select
        versions.*,
        row_number() over (
            partition by versions.item_id
            order by versions.valid_from desc, batches.loaded_number desc nulls last
        ) as latest
    from item_versions as versions
    left join batches on versions.batch = batches.number
    where versions.valid_from <= :cutoff and (versions.batch = 0 or batches.loaded_number <= :known)
)

select
    item_id,
    title,
    category_path,
    brand,
    cast(price as double precision) as price,
    cast(properties as text) as properties,
    available_from,
    available_until
from told
where latest = 1
order by item_id collate "C"
