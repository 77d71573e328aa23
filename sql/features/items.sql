-- Grain: one item.
-- Inputs: item_versions, held_item_versions (a version may have become one after the change), batches.
-- Output: the attributes valid at the cut-off, as of change :as_of_change.
with delivered as (
    select *
    from item_versions
    union all
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
        implied,
        source,
        updated_at,
        dated,
        row_number
    from held_item_versions
    where was_version
),

ranked_versions as (
    select
        versions.*,
        row_number() over (
            partition by versions.item_id
            order by
                versions.valid_from desc,
                versions.implied asc,
                batches.change_number desc nulls last,
                versions.row_number desc
        ) as recency_rank
    from delivered as versions
    left join batches on versions.batch = batches.number
    where versions.valid_from <= :cutoff and (versions.batch = 0 or batches.change_number <= :as_of_change)
)

select
    item_id,
    title,
    category_path,
    brand,
    finite_number(cast(price as text)) as price,
    cast(properties as text) as properties,
    available_from,
    available_until
from ranked_versions
where recency_rank = 1
order by item_id collate "C"
