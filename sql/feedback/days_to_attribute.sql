-- Grain: one day whose outcomes may have changed since they were counted: it, the day before, or one of the days in
-- which its impressions may still be acted on, was touched by a later change. A flag is none: the count that found it
-- has left the machine out of the day's figures, and no other day's depend on it.
with days as (
    select distinct day
    from batch_days
),

changes as (
    select
        batch_days.day,
        batch_days.loaded_number
    from batch_days
    inner join batches on batch_days.loaded_number = batches.loaded_number
    where batches.status <> 'change' or batches.source <> 'flag'
)

select
    days.day,
    max(changed.loaded_number) as known
from days
inner join changes as changed on changed.day between days.day - 1 and days.day + cast(:days as integer)
left join outcome_days on days.day = outcome_days.day
group by days.day
having max(changed.loaded_number) > coalesce(max(outcome_days.known), 0)
order by days.day
