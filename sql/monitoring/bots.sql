-- Grain: one day with flagged bots, with their number and an example of the reason.
select
    day,
    count(*) as bots,
    min(reason) as example
from bot_visitors
group by day
order by day
