-- Grain: one built part of a snapshot.
insert into feature_parts (
    day, until, last_change, opened_with, file, open_after, events, sessions, feedback_events
)
values (
    :day, :until, :last_change, :opened_with, :file, :open_after, :events, :sessions, :feedback_events
)
on conflict (day, until, last_change, opened_with) do update set
    file = excluded.file,
    open_after = excluded.open_after,
    events = excluded.events,
    sessions = excluded.sessions,
    feedback_events = excluded.feedback_events,
    built_at = now()
