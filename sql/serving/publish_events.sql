-- Grain: one event under one key: its user, or its session. Told again, it stays what it was.
insert into live_events (key, event_id, user_id, event_time, event)
select
    told.key,
    told.event_id,
    told.user_id,
    told.event_time,
    told.event
from
    unnest(
        cast(:keys as text[]),
        cast(:event_ids as text[]),
        cast(:user_ids as text[]),
        cast(:event_times as timestamptz[]),
        cast(:events as text[])
    ) as told (key, event_id, user_id, event_time, event)
on conflict (key, event_id) do nothing
