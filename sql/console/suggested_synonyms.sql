-- Grain: one pair of normalized queries since :since, at most 50: a shopper searched for the first one without an
-- action, then within two minutes for the other one, with an action on its results.
-- Output: the pair and its number of visitors, at least :min_visitors.
with pairs as (
    select
        visitor,
        query_text,
        has_action,
        lead(query_text) over by_visitor as next_text,
        lead(has_action) over by_visitor as next_has_action,
        lead(event_time) over by_visitor - event_time as pause
    from shopper_searches(:since)
    window by_visitor as (partition by visitor order by event_time, event_id)
)

select
    query_text as phrase,
    next_text as means,
    count(distinct visitor) as visitors
from pairs
where
    not has_action
    and next_has_action
    and next_text <> query_text
    -- What a synonym can be: words, and no quoted or excluded ones.
    and query_text ~ '[[:alnum:]]'
    and next_text ~ '[[:alnum:]]'
    and query_text !~ '"|(^| )-'
    and next_text !~ '"|(^| )-'
    and length(query_text) <= 200
    and length(next_text) <= 200
    and pause <= interval '2 minutes'
group by query_text, next_text
having count(distinct visitor) >= :min_visitors
order by count(distinct visitor) desc, query_text asc, next_text asc
limit 50
