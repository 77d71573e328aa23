-- Grain: one event that a correction replaces.
delete from events using known_events as known
where
    not known.is_same
    and events.event_time = known.event_time
    and events.event_key = known.event_key
    and not exists (
        select 1 from skipped_events
        where skipped_events.row_number = known.row_number
    )
