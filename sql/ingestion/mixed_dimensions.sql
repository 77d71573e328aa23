-- Grain: one space and version whose staged vectors have another dimension than the stored ones.
-- Reads: staged_vectors, item_vectors.
with staged as (
    select
        space,
        version,
        max(cardinality(vector)) as dimension
    from staged_vectors
    where broken_rules is null
    group by space, version
)

select
    staged.space,
    staged.version,
    staged.dimension as staged,
    cardinality(stored.vector) as stored
from staged
cross join
    lateral (
        select item_vectors.vector
        from item_vectors
        where item_vectors.space = staged.space and item_vectors.version = staged.version
        order by item_vectors.item_id asc, item_vectors.batch asc
        limit 1
    ) as stored
where cardinality(stored.vector) <> staged.dimension
