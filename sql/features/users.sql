-- Grain: one user.
-- Inputs: user_versions, held_user_versions (a version may have become one after the change), batches.
-- Output: the profile valid at the cut-off, as of change :as_of_change.
with delivered as (
    select *
    from user_versions
    union all
    select
        user_id,
        valid_from,
        batch,
        properties,
        implied,
        source,
        updated_at,
        dated,
        row_number
    from held_user_versions
    where was_version
),

ranked_versions as (
    select
        versions.*,
        row_number() over (
            partition by versions.user_id
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
    user_id,
    cast(properties as text) as properties
from ranked_versions
where recency_rank = 1
order by user_id collate "C"
