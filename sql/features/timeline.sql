-- Grain: one event of what users did with an item before the cut-off, in the order of their timelines.
-- Inputs: events. Output: the user, the session and the event's place in it, and the gap to the event before.
-- A user is known by the id or, where there is none, by the session, whose id
-- may be some user's too. Events without a session are cut into
-- sessions where half an hour passes between them. Events of the same instant (the lines of a basket) have no
-- order of their own: a digest orders them, so that no id's size tells what comes last.
with actions as (
    select
        event_id,
        case when user_id is not null then 'user ' || user_id else 'session ' || session_id end as user_key,
        user_id,
        session_id,
        item_id,
        event_type,
        event_time,
        case when source = 'feedback' then 1 else 0 end as is_feedback,
        lag(event_time) over (
            partition by user_id, session_id
            order by event_time, event_id
        ) as previous_time
    from events
    where event_time < :cutoff and item_id is not null and event_type <> 'impression'
),

numbered as (
    select
        *,
        sum(case when session_id is null and event_time > previous_time + interval '30 minutes' then 1 else 0 end)
            over (partition by user_key, session_id order by event_time, event_id) as visit
    from actions
),

placed as (
    select
        *,
        min(event_time) over (partition by user_key, session_id, visit) as session_start,
        coalesce(session_id, '') || '/' || cast(visit as text) as session_key
    from numbered
)

select
    user_key,
    user_id,
    session_key,
    session_start,
    item_id,
    event_type,
    event_time,
    is_feedback,
    row_number() over (
        partition by user_key, session_key
        order by event_time, md5(event_id)
    ) as position_in_session,
    coalesce(
        cast(
            extract(
                epoch from event_time - lag(event_time) over (
                    partition by user_key
                    order by session_start, session_key, event_time, md5(event_id)
                )
            ) as double precision
        ),
        0
    ) as gap_seconds
from placed
order by user_key, session_start, session_key, event_time, md5(event_id)
