-- Grain: one forgotten user.
insert into forgotten_users (user_digest)
values (:user_digest)
on conflict (user_digest) do update set forgotten_at = now()
