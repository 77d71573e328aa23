-- Grain: one query and item that shoppers chose from the query's own result list, since :since.
-- Output: the normalized query, how many searches had it, the item, the strongest action (1 view, 2 add to cart,
-- 3 purchase) and the number of people who chose the item. Searches and items of fewer than :min_people are left out.
with searches as (
    select
        event_id,
        lower(regexp_replace(btrim(query), '\s+', ' ', 'g')) as query_text
    from events
    where
        event_type = 'search'
        and event_time >= :since
        and coalesce(properties ->> 'traffic', 'shopper') = 'shopper'
),

frequencies as (
    select
        query_text,
        count(*) as searches
    from searches
    group by query_text
),

choices as (
    select
        searches.query_text,
        actions.item_id,
        max(case actions.event_type when 'purchase' then 3 when 'add_to_cart' then 2 else 1 end) as rating,
        count(distinct visitor_of(actions.user_id, actions.session_id)) as people
    from searches
    inner join events as actions on searches.event_id = actions.request_id
    where
        actions.event_type in ('view', 'add_to_cart', 'purchase')
        and coalesce(actions.properties ->> 'traffic', 'shopper') = 'shopper'
    group by searches.query_text, actions.item_id
)

select
    choices.query_text,
    frequencies.searches,
    choices.item_id,
    choices.rating,
    choices.people
from choices
inner join frequencies on choices.query_text = frequencies.query_text
where choices.people >= :min_people
order by choices.query_text, choices.item_id
