-- Grain: one daily partition of snapshots.
-- Output: its row of feature_partitions; a rebuilt partition replaces the row with the same inputs.
insert into feature_partitions (
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
