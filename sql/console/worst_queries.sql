-- Grain: one query that shoppers typed since :since, those with the most searches that led to nothing first; 50.
-- Output: the normalized query, its searches, those without a result, and those after which nobody chose an item from
-- the list.
with searches as (
    select
        event_id,
        lower(regexp_replace(btrim(query), '\s+', ' ', 'g')) as query_text,
        finite_number(properties ->> 'results') as results
    from events
    where
        event_type = 'search'
        and event_time >= :since
        and coalesce(properties ->> 'traffic', 'shopper') = 'shopper'
),

chosen as (
    select distinct request_id
    from events
    where
        event_type in ('view', 'add_to_cart', 'purchase')
        and event_time >= :since
        and request_id is not null
)

select
    searches.query_text,
    count(*) as searches,
    count(*) filter (where searches.results = 0) as zero_hits,
    count(*) filter (where chosen.request_id is null) as without_choice
from searches
left join chosen on searches.event_id = chosen.request_id
group by searches.query_text
order by
    count(*) filter (where chosen.request_id is null) desc,
    count(*) filter (where searches.results = 0) desc,
    searches.query_text asc
limit 50
