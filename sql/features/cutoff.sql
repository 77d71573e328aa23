-- Grain: one row. The moment just after the last event, which is the default cut-off of a snapshot.
select max(event_time) + interval '1 second' as cutoff
from events
where item_id is not null and event_type <> 'impression'
