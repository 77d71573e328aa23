-- Grain: one forgotten user, stored as a digest of the id. Writes: forgotten_users.
insert into forgotten_users (user_digest)
select distinct user_digest(forgotten.user_id) as user_digest
from unnest(cast(:user_ids as text[])) as forgotten (user_id)
on conflict (user_digest) do update set forgotten_at = now()
