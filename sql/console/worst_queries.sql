-- Grain: one normalized query of shoppers since :since; the 50 with the most searches without an action.
-- Output: the query, its searches, those without results, and those without an action on their list.
select
    query_text,
    count(*) as searches,
    count(*) filter (where results = 0) as zero_results,
    count(*) filter (where not has_action) as without_action
from shopper_searches(:since)
group by query_text
order by
    count(*) filter (where not has_action) desc,
    count(*) filter (where results = 0) desc,
    query_text asc
limit 50
