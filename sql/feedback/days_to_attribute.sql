-- Grain: one day whose outcomes may have changed since they were counted: it, the day before, or one of the days in
-- which its impressions may still be acted on, was touched by a later change.
with days as (
    select distinct day
    from batch_days
)

select
    days.day,
    max(changed.loaded_number) as known
from days
inner join batch_days as changed on changed.day between days.day - 1 and days.day + cast(:days as integer)
left join outcome_days on days.day = outcome_days.day
group by days.day
having max(changed.loaded_number) > coalesce(max(outcome_days.known), 0)
order by days.day
