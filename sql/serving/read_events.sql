-- Grain: one event under one key that was told since a time of that key. Transactions end in another order than they
-- began, so whoever asks goes back a little before what is known.
select
    live_events.key,
    live_events.told_at,
    live_events.event
from unnest(cast(:keys as text[]), cast(:since as timestamptz[])) as asked (key, since)
inner join live_events on asked.key = live_events.key and asked.since < live_events.told_at
order by live_events.told_at
