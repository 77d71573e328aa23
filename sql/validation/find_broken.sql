-- Grain: one broken rule of one staged row, with the landed row as JSON.
-- Reads: the views `staged` and `landed` over the tables of the current kind.
create table broken_rows as
select
    staged.row_number,
    broken.rule,
    landed.raw
from staged
inner join landed on staged.row_number = landed.row_number
cross join lateral string_to_table(staged.broken_rules, ' ') as broken (rule)
where staged.broken_rules is not null
