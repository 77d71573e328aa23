-- Grain: one event of forgotten users. Writes: events, held_events, vacated_events.
-- Removes events without a user if their session belongs to a forgotten user.
with delivered as (
    select
        user_id,
        session_id
    from events
    union all
    select
        user_id,
        session_id
    from held_events
),

forgotten_sessions as (
    select distinct session_id
    from delivered
    where user_id = any(cast(:user_ids as text[])) and session_id is not null
),

removed_held as (
    delete from held_events
    where
        user_id = any(cast(:user_ids as text[]))
        or (user_id is null and session_id in (select session_id from forgotten_sessions))
),

removed as (
    delete from events
    where
        user_id = any(cast(:user_ids as text[]))
        or (user_id is null and session_id in (select session_id from forgotten_sessions))
    returning source, event_id, event_key, event_time
)

insert into vacated_events (source, event_id, event_key, event_time)
select
    source,
    event_id,
    event_key,
    event_time
from removed
