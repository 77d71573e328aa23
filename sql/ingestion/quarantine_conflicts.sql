-- Grain: one event with the id of another event but different content; the other one is kept.
-- Reads: skipped_events, landed_events. Writes: quarantine.
insert into quarantine (batch_id, kind, row_number, rule, reason, value, raw)
select
    :batch_id as batch_id,
    'events' as kind,
    skipped.row_number,
    'event_id_conflict' as rule,
    'another event with this id and different content was kept' as reason,
    landed.event_id as value,
    to_jsonb(landed) - 'row_number' as raw
from skipped_events as skipped
inner join landed_events as landed on skipped.row_number = landed.row_number
where not skipped.is_same
on conflict (batch_id, kind, row_number, rule) do nothing
