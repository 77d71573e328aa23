-- Grain: one stored event that a staged event with the same id replaces. Reads: known_events, skipped_events.
-- Writes: events.
delete from events using known_events as known
where
    not known.is_same
    and events.event_time = known.event_time
    and events.event_key = known.event_key
    and not exists (
        select 1 from skipped_events
        where skipped_events.row_number = known.row_number
    )
