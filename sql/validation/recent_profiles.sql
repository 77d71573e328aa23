-- Grain: one metric of one of a source's latest loaded batches of a kind, as they were when they came. Rows that were
-- replayed from quarantine tell nothing of what is usual.
with recent as (
    select batch_id
    from batches
    where
        source = :source
        and status = 'loaded'
        and batch_id <> :batch_id
        and origin not like 'quarantine of %'
        and exists (
            select 1 from batch_profiles
            where batch_profiles.batch_id = batches.batch_id and batch_profiles.kind = :kind
        )
    order by loaded_number desc
    limit 8
)

select
    profiles.metric,
    profiles.value
from batch_profiles as profiles
inner join recent on profiles.batch_id = recent.batch_id
where profiles.kind = :kind and profiles.value is not null
