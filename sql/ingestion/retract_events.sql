-- Grain: one day (UTC) with the number of removed events of a batch. Writes: events.
with removed as (
    delete from events
    where batch = :batch
    returning event_time
)

select
    cast(event_time at time zone 'UTC' as date) as day,
    count(*) as events
from removed
group by 1
order by 1
