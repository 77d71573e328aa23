-- Grain: one landed vector of an item, typed (null where the text is invalid), with the names of the rules it breaks
-- (null if none). Reads: landed_vectors, item_vectors.
create table staged_vectors as
with typed as (
    select
        row_number,
        item_id,
        space,
        coalesce(version, '') as version,
        real_vector(vector) as vector
    from landed_vectors
),

-- The dimension of a space and version is that of its stored vectors; else the most frequent one of the batch.
spaces as (
    select
        space,
        version,
        mode() within group (order by cardinality(vector)) as dimension
    from typed
    where vector is not null
    group by space, version
),

dimensions as (
    select
        spaces.space,
        spaces.version,
        coalesce(cardinality(stored.vector), spaces.dimension) as dimension
    from spaces
    left join lateral (
        select item_vectors.vector
        from item_vectors
        where item_vectors.space = spaces.space and item_vectors.version = spaces.version
        order by item_vectors.item_id asc, item_vectors.batch asc
        limit 1
    ) as stored on true
)

select
    cast(typed.row_number as integer) as row_number,
    typed.item_id,
    typed.space,
    typed.version,
    typed.vector,
    nullif(
        concat_ws(
            ' ',
            case when typed.item_id is null then 'item_id_present' end,
            case when octet_length(typed.item_id) > 2000 then 'ids_are_short' end,
            case when typed.space is null or typed.space !~ '^[a-z0-9_]{1,40}$' then 'space_is_name' end,
            case when typed.version !~ '^[A-Za-z0-9_.-]{0,40}$' then 'version_is_name' end,
            case when typed.vector is null then 'vector_is_list_of_numbers' end,
            case when cardinality(typed.vector) > 4096 then 'vector_is_short' end,
            case when 0 = all(typed.vector) then 'vector_is_not_zero' end,
            case when cardinality(typed.vector) <> dimensions.dimension then 'vector_has_dimension_of_space' end
        ),
        ''
    ) as broken_rules
from typed
left join dimensions on typed.space = dimensions.space and typed.version = dimensions.version
