-- Grain: one good staged event whose id the warehouse has already, and whether it says the same there.
-- Looks where the id can be: near the batch's own time (:known_from to :known_until), so that the cost of a batch
-- does not grow with history.
create table known_events as
select
    staged.row_number,
    events.content = staged.content as is_same,
    events.event_key,
    events.event_time
from staged_events as staged
inner join events on staged.event_key = events.event_key and staged.event_id = events.event_id
where
    staged.broken_rules is null
    and events.event_time between :known_from and :known_until
