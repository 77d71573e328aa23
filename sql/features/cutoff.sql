-- Grain: one row. The moment just after the last event, which is the default cut-off of a snapshot. A partition
-- is asked only while no later one has such an event.
select event_time + interval '1 second' as cutoff
from events
where (item_id is not null or event_type = 'search') and event_type <> 'impression'
order by event_time desc
limit 1
