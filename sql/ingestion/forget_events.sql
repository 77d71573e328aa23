-- Grain: one day (UTC) with the number of removed events of forgotten users. Writes: events.
-- Removes events without a user if their session belongs to a forgotten user.
with forgotten_sessions as (
    select distinct session_id
    from events
    where user_id = any(cast(:user_ids as text[])) and session_id is not null
),

removed as (
    delete from events
    where
        user_id = any(cast(:user_ids as text[]))
        or (
            user_id is null
            and session_id in (select session_id from forgotten_sessions)
        )
    returning event_time
)

select
    cast(event_time at time zone 'UTC' as date) as day,
    count(*) as events
from removed
group by 1
order by 1
