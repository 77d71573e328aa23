-- Grain: one item.
-- Inputs: item_versions, batches.
-- Output: the attributes valid at the cut-off, as of change :as_of_change.
with ranked_versions as (
    select
        versions.*,
        row_number() over (
            partition by versions.item_id
            order by versions.valid_from desc, batches.change_number desc nulls last
        ) as recency_rank
    from item_versions as versions
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
