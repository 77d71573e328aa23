-- Grain: one event under one key that was told so long ago that endpoints have it from the warehouse's models.
delete from live_events
where told_at < now() - cast(:keep as interval)
