-- Grain: one broken rule of one staged row of items, with the row as it was landed.
create table broken_rows as
select
    staged.row_number,
    broken.rule,
    to_jsonb(landed) - 'row_number' as raw
from staged_items as staged
inner join landed_items as landed on staged.row_number = landed.row_number
cross join lateral string_to_table(staged.broken_rules, ' ') as broken (rule)
where staged.broken_rules is not null
