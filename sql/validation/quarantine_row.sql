-- Grain: one broken rule of one landed row, kept with the whole row as it was sent.
insert into quarantine (batch_id, kind, row_number, rule, reason, raw)
select
    landed.batch_id,
    :kind as kind,
    landed.row_number,
    :rule as rule,
    :reason as reason,
    to_jsonb(landed) - 'batch_id' - 'row_number' as raw
from {landing} as landed
where landed.batch_id = :batch_id and landed.row_number = :row_number
on conflict (batch_id, kind, row_number, rule) do nothing
