-- Grain: one event under one key, published since a time given for that key. Transactions commit in another order than
-- they begin, so callers ask for a time some seconds before the last event they have read.
select
    live_events.key,
    live_events.published_at,
    live_events.event
from unnest(cast(:keys as text[]), cast(:since as timestamptz[])) as requested (key, since)
inner join live_events on requested.key = live_events.key and requested.since < live_events.published_at
order by live_events.published_at
