-- Grain: one action or search of one day (UTC), as of change :as_of_change.
-- Inputs: events, batches, bot_visitors (bots), and open_sessions: the sessions that were open when the day began.
-- Output: the user, the session (identified by its start), the position in the session, and the list position at which
-- the item was shown if the action was on an impression (0: it was not). A search has an empty item, an action an empty
-- query. The dwell time is null without the property.
-- The user key is the user id. Without one, it is that of the first user who acts in the session on the same day, as at
-- the endpoint (somebody logged in), else the session id. User and session ids can be the same text. A session ends
-- after a gap of 30 minutes, or of 12 hours if it has an id: a visitor who returns later under the same id starts a new
-- session.
-- Events of the same instant, such as the lines of a basket, have no order of their own: event_key, a digest, breaks
-- ties, so that the order does not depend on ids.
with anonymous_sessions as (
    select distinct
        source,
        session_id
    from events
    where
        event_time >= :day_start
        and event_time < :until
        and user_id is null
),

logins as (
    select distinct on (events.source, events.session_id)
        events.source,
        events.session_id,
        events.user_id
    from events
    inner join batches on events.batch = batches.number
    inner join anonymous_sessions
        on events.source = anonymous_sessions.source and events.session_id = anonymous_sessions.session_id
    where
        events.event_time >= :day_start
        and events.event_time < :until
        and events.user_id is not null
        and batches.change_number <= :as_of_change
    order by events.source, events.session_id, events.event_time, events.event_key
),

actions as (
    select
        events.event_key,
        visitor_of(coalesce(events.user_id, logins.user_id), events.session_id) as user_key,
        coalesce(events.session_id, '') as session_id,
        coalesce(events.item_id, '') as item_id,
        events.event_type,
        events.event_time,
        case when events.event_type = 'search' then coalesce(events.query, '') else '' end as query,
        case when events.source = 'feedback' then 1 else 0 end as is_feedback,
        case when events.request_id is not null then coalesce(events.position, 0) else 0 end as shown_at,
        finite_number(events.properties ->> 'dwell_seconds') as dwell_seconds
    from events
    inner join batches on events.batch = batches.number
    left join logins
        on
            events.user_id is null
            and events.source = logins.source
            and events.session_id = logins.session_id
    left join bot_visitors
        on
            visitor_of(events.user_id, events.session_id) = bot_visitors.visitor
            and bot_visitors.day = cast(cast(:day_start as timestamptz) at time zone 'UTC' as date)
            and bot_visitors.change_number <= :as_of_change
    where
        events.event_time >= :day_start
        and events.event_time < :until
        and (events.item_id is not null or events.event_type = 'search')
        and events.event_type <> 'impression'
        and coalesce(events.properties ->> 'traffic', 'shopper') = 'shopper'
        and bot_visitors.visitor is null
        and batches.change_number <= :as_of_change
),

sequenced as (
    select
        actions.*,
        open_sessions.session_start as open_session_start,
        coalesce(open_sessions.events, 0) as open_events,
        coalesce(lag(actions.event_time) over in_time, open_sessions.last_time) as previous_time,
        row_number() over in_time as event_number
    from actions
    left join open_sessions
        on actions.user_key = open_sessions.user_key and actions.session_id = open_sessions.session_id
    window
        in_time as (
            partition by actions.user_key, actions.session_id
            order by actions.event_time, actions.event_key
        )
),

session_starts as (
    select
        *,
        case
            when
                previous_time is null
                or event_time
                > previous_time + case when session_id = '' then interval '30 minutes' else interval '12 hours' end
                then 1
        end as starts_session
    from sequenced
),

positioned as (
    select
        *,
        max(case when starts_session = 1 then event_time end) over so_far as started_at,
        max(case when starts_session = 1 then event_number end) over so_far as first_number
    from session_starts
    window
        so_far as (
            partition by user_key, session_id
            order by event_time, event_key
        )
)

select
    user_key,
    session_id,
    coalesce(started_at, open_session_start) as session_start,
    cast(
        case
            when started_at is null then open_events + event_number
            else event_number - first_number + 1
        end as integer
    ) as position_in_session,
    item_id,
    event_type,
    event_time,
    query,
    is_feedback,
    shown_at,
    dwell_seconds
from positioned
order by user_key collate "C", session_start, session_id collate "C", position_in_session
