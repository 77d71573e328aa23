-- Grain: one user that events of a loaded batch name, and that has no version left. Adds it with its id only.
-- Reads: orphaned_users, events, held_events, batches. Writes: user_versions.
with named as (
    select
        user_id,
        batch
    from events
    where user_id in (select user_id from orphaned_users)
    union all
    select
        user_id,
        batch
    from held_events
    where user_id in (select user_id from orphaned_users)
)

insert into user_versions (user_id, valid_from, batch, implied, source)
select distinct on (named.user_id)
    named.user_id,
    cast('-infinity' as timestamptz) as valid_from,
    named.batch,
    true as implied,
    batches.source
from named
inner join batches on named.batch = batches.number
where
    batches.implies_users
    and batches.status = 'loaded'
    and not exists (
        select 1 from user_versions
        where user_versions.user_id = named.user_id
    )
order by named.user_id asc, batches.change_number asc
