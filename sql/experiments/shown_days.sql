-- Grain: one day on which lists were shown to at least :min_visitors visitors, latest first.
select
    day,
    count(distinct visitor) as visitors
from shopper_outcomes
group by day
having count(distinct visitor) >= :min_visitors
order by day desc
