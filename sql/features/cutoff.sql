-- Grain: one row.
-- Inputs: events. A partition is read only if all later ones have no such event.
-- Output: one second after the last action or search, the default cut-off of a snapshot.
select event_time + interval '1 second' as cutoff
from events
where (item_id is not null or event_type = 'search') and event_type <> 'impression'
order by event_time desc
limit 1
