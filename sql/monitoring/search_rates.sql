-- Grain: one row, of the searches in [:begins, :ends), without bots and internal traffic.
-- Output: the number of searches, those without any result, those with a corrected word, and the reformulations:
-- searches that the same visitor repeated in other words within two minutes, without any action in between.
with searches as (
    select
        events.event_id,
        events.event_time,
        lower(btrim(events.query)) as query_text,
        finite_number(events.properties ->> 'results') as results,
        coalesce(events.properties ->> 'corrected' = 'true', false) as is_corrected,
        visitor_of(events.user_id, events.session_id) as visitor
    from events
    left join bot_visitors
        on
            visitor_of(events.user_id, events.session_id) = bot_visitors.visitor
            and bot_visitors.day = cast(events.event_time at time zone 'UTC' as date)
    where
        events.event_type = 'search'
        and events.event_time >= :begins
        and events.event_time < :ends
        and coalesce(events.properties ->> 'traffic', 'shopper') = 'shopper'
        and bot_visitors.visitor is null
),

followed as (
    select
        searches.*,
        lead(query_text) over in_time as next_query,
        lead(event_time) over in_time as next_time
    from searches
    window in_time as (partition by visitor order by event_time, event_id)
)

select
    count(*) as searches,
    count(*) filter (where results = 0) as zero_hits,
    count(*) filter (where is_corrected) as corrected,
    count(*) filter (
        where
        next_query <> query_text
        and next_time <= event_time + interval '2 minutes'
        and not exists (
            select 1
            from events as actions
            where actions.request_id = followed.event_id and actions.event_type in ('view', 'add_to_cart', 'purchase')
        )
    ) as reformulations
from followed
