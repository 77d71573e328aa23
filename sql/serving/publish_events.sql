-- Grain: one event under one key, which is its user or its session. An event that is published again does not change.
insert into live_events (key, event_id, user_id, event_time, event)
select
    published.key,
    published.event_id,
    published.user_id,
    published.event_time,
    published.event
from
    unnest(
        cast(:keys as text[]),
        cast(:event_ids as text[]),
        cast(:user_ids as text[]),
        cast(:event_times as timestamptz[]),
        cast(:events as text[])
    ) as published (key, event_id, user_id, event_time, event)
on conflict (key, event_id) do nothing
