-- Grain: one item in one space.
-- Inputs: item_vectors, batches.
-- Output: the vectors of each space in the version that was introduced last, as of change :as_of_change.
with delivered as (
    select
        item_vectors.*,
        batches.change_number
    from item_vectors
    inner join batches on item_vectors.batch = batches.number
    where batches.change_number <= :as_of_change
),

versions as (
    select
        space,
        version,
        min(change_number) as introduced
    from delivered
    group by space, version
),

latest_versions as (
    select distinct on (space)
        space,
        version
    from versions
    order by space asc, introduced desc, version desc
)

select distinct on (delivered.space, delivered.item_id collate "C")
    delivered.item_id,
    delivered.space,
    delivered.version,
    delivered.vector
from delivered
inner join latest_versions
    on delivered.space = latest_versions.space and delivered.version = latest_versions.version
order by delivered.space asc, delivered.item_id collate "C" asc, delivered.change_number desc
