-- Grain: one broken rule of one landed row, kept with the whole row as it was sent. Reads: broken_rows, a table
-- of this transaction with the row numbers that broke the rule.
insert into quarantine (batch_id, kind, row_number, rule, reason, raw)
select
    landed.batch_id,
    :kind as kind,
    landed.row_number,
    :rule as rule,
    :reason as reason,
    to_jsonb(landed) - 'batch_id' - 'row_number' as raw
from {landing} as landed
where landed.batch_id = :batch_id and landed.row_number in (select row_number from broken_rows)
on conflict (batch_id, kind, row_number, rule) do nothing
