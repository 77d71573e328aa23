-- Grain: one event type, with the number of events on an item since :since.
select
    event_type,
    count(*) as events
from events
where item_id = :item_id and event_time >= :since
group by event_type
order by event_type
