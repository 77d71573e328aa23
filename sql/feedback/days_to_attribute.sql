-- Grain: one day (UTC) whose outcomes may have changed since its last attribution.
-- Inputs: batch_days, batches, outcome_days. Parameter: the attribution window in days.
-- Output: the day, and the last change that touched it, the day before, or a day in its attribution window.
-- Bot flags are excluded: the attribution that flags a bot already excludes it from the day, and other days do not
-- depend on the flag.
with days as (
    select distinct day
    from batch_days
),

changes as (
    select
        batch_days.day,
        batch_days.change_number
    from batch_days
    inner join batches on batch_days.change_number = batches.change_number
    where batches.status <> 'change' or batches.source <> 'flag'
)

select
    days.day,
    max(changes.change_number) as as_of_change
from days
inner join changes on changes.day between days.day - 1 and days.day + cast(:days as integer)
left join outcome_days on days.day = outcome_days.day
group by days.day
having max(changes.change_number) > coalesce(max(outcome_days.as_of_change), 0)
order by days.day
