-- Grain: one day on which visitors behaved like machines, with how many.
select
    day,
    count(*) as machines,
    min(reason) as example
from flagged_visitors
group by day
order by day
