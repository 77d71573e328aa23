-- Grain: one shared event under one key, older than :keep, so that daily partitions and models include it by now.
-- Writes: live_events.
delete from live_events
where published_at < now() - cast(:keep as interval)
