-- Grain: one visitor of a day who asked for more lists in some minute than a person can look at, and was not known as
-- a machine on that day yet.
with in_minutes as (
    select
        visitor,
        day,
        count(*) as requests
    from request_outcomes
    where day = :day and traffic = 'shopper'
    group by visitor, day, date_trunc('minute', shown_at)
    having count(*) > :requests_per_minute
)

select
    in_minutes.visitor,
    max(in_minutes.requests) as requests
from in_minutes
left join flagged_visitors
    on in_minutes.visitor = flagged_visitors.visitor and in_minutes.day = flagged_visitors.day
where flagged_visitors.visitor is null
group by in_minutes.visitor
