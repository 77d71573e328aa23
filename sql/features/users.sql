-- Grain: one user, with the profile that held at the cut-off as far as the batches up to :known tell.
with told as (
    select
        versions.*,
        row_number() over (
            partition by versions.user_id
            order by versions.valid_from desc, batches.loaded_number desc nulls last
        ) as latest
    from user_versions as versions
    left join batches on versions.batch = batches.number
    where versions.valid_from <= :cutoff and (versions.batch = 0 or batches.loaded_number <= :known)
)

select
    user_id,
    cast(properties as text) as properties
from told
where latest = 1
order by user_id collate "C"
