-- Grain: one normalized query of shoppers since :since; the 50 with the most searches without an action.
-- Output: the query, its searches, those without results, and those without an action on their list.
with searches as (
    select
        event_id,
        lower(regexp_replace(btrim(query), '\s+', ' ', 'g')) as query_text,
        finite_number(properties ->> 'results') as results
    from events
    left join bot_visitors
        on
            visitor_of(events.user_id, events.session_id) = bot_visitors.visitor
            and bot_visitors.day = cast(events.event_time at time zone 'UTC' as date)
    where
        event_type = 'search'
        and event_time >= :since
        and coalesce(properties ->> 'traffic', 'shopper') = 'shopper'
        and bot_visitors.visitor is null
),

-- An anti-join by request reads the index of requests, and no impressions.
marked as (
    select
        searches.*,
        not exists (
            select 1
            from events as actions
            where
                actions.request_id = searches.event_id
                and actions.event_time >= :since
                and actions.event_type in ('view', 'add_to_cart', 'purchase')
        ) as is_without_action
    from searches
)

select
    query_text,
    count(*) as searches,
    count(*) filter (where results = 0) as zero_results,
    count(*) filter (where is_without_action) as without_action
from marked
group by query_text
order by
    count(*) filter (where is_without_action) desc,
    count(*) filter (where results = 0) desc,
    query_text asc
limit 50
