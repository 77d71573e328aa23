-- Grain: one metric of one of the latest eight loaded batches of a source and kind. Reads: batches, batch_profiles.
-- Excludes replayed batches, because their rows are not representative.
with recent_batches as (
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
    order by change_number desc
    limit 8
)

select
    profiles.metric,
    profiles.value
from batch_profiles as profiles
inner join recent_batches on profiles.batch_id = recent_batches.batch_id
where profiles.kind = :kind and profiles.value is not null
