-- Grain: one user per id. Reads: a validated batch's landing_users. Writes: users; the latest batch wins.
with accepted as (
    select
        landed.user_id,
        landed.properties,
        row_number() over (partition by landed.user_id order by landed.row_number desc) as latest
    from landing_users as landed
    where
        landed.batch_id = :batch_id
        and not exists (
            select 1
            from quarantine
            where
                quarantine.batch_id = landed.batch_id
                and quarantine.kind = 'users'
                and quarantine.row_number = landed.row_number
        )
)

insert into users (user_id, properties, source)
select
    user_id,
    coalesce(cast(properties as jsonb), '{}') as properties,
    :source as source
from accepted
where latest = 1
on conflict (user_id) do update set
    properties = excluded.properties,
    source = excluded.source,
    updated_at = now()
