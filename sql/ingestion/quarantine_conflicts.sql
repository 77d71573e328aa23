-- Grain: one event that has the id of another but says something else; the one that came first is kept.
insert into quarantine (batch_id, kind, row_number, rule, reason, value, raw)
select
    :batch_id as batch_id,
    'events' as kind,
    skipped.row_number,
    'event_id_conflict' as rule,
    'an event with this id says something else and was there first' as reason,
    landed.event_id as value,
    to_jsonb(landed) - 'row_number' as raw
from skipped_events as skipped
inner join landed_events as landed on skipped.row_number = landed.row_number
where not skipped.is_same
on conflict (batch_id, kind, row_number, rule) do nothing
