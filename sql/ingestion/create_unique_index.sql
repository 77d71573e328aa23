-- Grain: one valid staged event. Fails if two events have the same id, or (rarely) ids with the same 64-bit hash.
create unique index on staged_events (event_key) where broken_rules is null
