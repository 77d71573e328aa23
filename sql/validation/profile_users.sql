-- Grain: one row. What a staged batch of users looks like in numbers.
select
    count(*) as rows,
    count(broken_rules) as bad_rows
from staged_users
