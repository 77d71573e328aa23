-- Grain: one unknown user referenced by events, added with its id only. Reads: implied_users. Writes: user_versions.
insert into user_versions (user_id, valid_from, batch, implied, source)
select
    user_id,
    cast('-infinity' as timestamptz) as valid_from,
    cast(:batch as integer) as batch,
    true as implied,
    :source as source
from implied_users as implied
where
    not exists (
        select 1 from user_versions
        where user_versions.user_id = implied.user_id
    )
