-- Grain: one good staged event. Fails where two have the same id (or, hardly ever, the same digest of different ids).
create unique index on staged_events (event_key) where broken_rules is null
