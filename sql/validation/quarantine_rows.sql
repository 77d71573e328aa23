-- Grain: one broken rule of one staged row, kept with the offending value and the whole row as it was sent.
-- Of a forgotten user nothing is kept but the fact. Reads: broken_rows, as `find_broken.sql` finds them.
insert into quarantine (batch_id, kind, row_number, rule, reason, value, raw)
select
    :batch_id as batch_id,
    :kind as kind,
    broken.row_number,
    broken.rule,
    rules.reason,
    case when broken.rule <> 'user_not_forgotten' then broken.raw ->> rules.named_column end as value,
    case
        when broken.rule = 'user_not_forgotten' then '{}'
        else broken.raw
    end as raw
from broken_rows as broken
inner join json_to_recordset(cast(:rules as json)) as rules (rule text, named_column text, reason text)
    on broken.rule = rules.rule
on conflict (batch_id, kind, row_number, rule) do nothing
