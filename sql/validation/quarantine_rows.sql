-- Grain: one broken rule of one staged row, with the offending value and the whole landed row.
-- Reads: broken_rows. Writes: quarantine.
insert into quarantine (batch_id, kind, row_number, rule, reason, value, raw)
select
    :batch_id as batch_id,
    :kind as kind,
    broken.row_number,
    broken.rule,
    rules.reason,
    left(broken.raw ->> rules.named_column, 200) as value,
    broken.raw
from broken_rows as broken
inner join json_to_recordset(cast(:rules as json)) as rules (rule text, named_column text, reason text)
    on broken.rule = rules.rule
on conflict (batch_id, kind, row_number, rule) do nothing
