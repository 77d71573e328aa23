-- Grain: one event of what users did with an item, or searched for, on one day, as far as the batches up to :known
-- tell. A search has no item, and what is no search no query: an empty text.
-- Inputs: events, batches, flagged_visitors (machines), and open_sessions: what was still going on when the day began.
-- Output: the user, the session (by the time it began), the event's place in it, and at what place of a list the item
-- was shown, if it was acted on there (0: it was not).
-- A user is known by the id or, where there is none, by the session, whose id may be some user's too. A session ends
-- when half an hour passes, or half a day if it has an id of its own: a visitor who comes back under an old id begins
-- a new one. Events of the same instant (the lines of a basket) have no order of their own: a digest orders them,
-- so that no id's size tells what comes last.
with actions as (
    select
        events.event_key,
        visitor_of(events.user_id, events.session_id) as user_key,
        coalesce(events.session_id, '') as session_id,
        coalesce(events.item_id, '') as item_id,
        events.event_type,
        events.event_time,
        case when events.event_type = 'search' then coalesce(events.query, '') else '' end as query,
        case when events.source = 'feedback' then 1 else 0 end as is_feedback,
        case when events.request_id is not null then coalesce(events.position, 0) else 0 end as shown_at
    from events
    inner join batches on events.batch = batches.number
    left join flagged_visitors
        on
            visitor_of(events.user_id, events.session_id) = flagged_visitors.visitor
            and flagged_visitors.day = cast(cast(:day_start as timestamptz) at time zone 'UTC' as date)
            and flagged_visitors.loaded_number <= :known
    where
        events.event_time >= :day_start
        and events.event_time < :until
        and (events.item_id is not null or events.event_type = 'search')
        and events.event_type <> 'impression'
        and coalesce(events.properties ->> 'traffic', 'shopper') = 'shopper'
        and flagged_visitors.visitor is null
        and batches.loaded_number <= :known
),

followed as (
    select
        actions.*,
        open_sessions.session_start as open_start,
        coalesce(open_sessions.events, 0) as open_events,
        coalesce(lag(actions.event_time) over in_time, open_sessions.last_time) as previous_time,
        row_number() over in_time as place
    from actions
    left join open_sessions
        on actions.user_key = open_sessions.user_key and actions.session_id = open_sessions.session_id
    window
        in_time as (
            partition by actions.user_key, actions.session_id
            order by actions.event_time, actions.event_key
        )
),

marked as (
    select
        *,
        case
            when
                previous_time is null
                or event_time
                > previous_time + case when session_id = '' then interval '30 minutes' else interval '12 hours' end
                then 1
        end as opens
    from followed
),

placed as (
    select
        *,
        max(case when opens = 1 then event_time end) over so_far as opened_at,
        max(case when opens = 1 then place end) over so_far as opened_place
    from marked
    window
        so_far as (
            partition by user_key, session_id
            order by event_time, event_key
        )
)

select
    user_key,
    session_id,
    coalesce(opened_at, open_start) as session_start,
    cast(
        case when opened_at is null then open_events + place else place - opened_place + 1 end as integer
    ) as position_in_session,
    item_id,
    event_type,
    event_time,
    query,
    is_feedback,
    shown_at
from placed
order by user_key collate "C", session_start, session_id collate "C", position_in_session
