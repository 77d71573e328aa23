-- Grain: one user that events name and the warehouse lacks; nothing else is known of it. Writes: user_versions.
insert into user_versions (user_id, valid_from, batch, implied, source)
select
    user_id,
    cast('-infinity' as timestamptz) as valid_from,
    cast(:batch as integer) as batch,
    true as implied,
    :source as source
from implied_users as named
where
    not exists (
        select 1 from user_versions
        where user_versions.user_id = named.user_id
    )
