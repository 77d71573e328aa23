-- Grain: one valid staged event whose id is already in `events` of its source, and whether its content is the same.
-- Reads: staged_events, events between :known_from and :known_until. The time limit keeps the cost of a batch
-- independent of the size of the history.
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
    and events.source = :source
    and events.event_time between :known_from and :known_until
