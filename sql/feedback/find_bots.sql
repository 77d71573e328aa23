-- Grain: one visitor of one day with more than :max_requests_per_minute list requests within some minute, who is not
-- flagged on that day yet.
-- Inputs: request_outcomes, bot_visitors.
-- Output: the visitor, and the largest number of requests within one minute.
with busy_minutes as (
    select
        visitor,
        day,
        count(*) as requests
    from request_outcomes
    where day = :day and traffic = 'shopper'
    group by visitor, day, date_trunc('minute', shown_at)
    having count(*) > :max_requests_per_minute
)

select
    busy_minutes.visitor,
    max(busy_minutes.requests) as requests
from busy_minutes
left join bot_visitors
    on busy_minutes.visitor = bot_visitors.visitor and busy_minutes.day = bot_visitors.day
where bot_visitors.visitor is null
group by busy_minutes.visitor
