-- Grain: one row, the metrics of a staged batch of users. Reads: staged_users.
select
    count(*) as rows,
    count(broken_rules) as bad_rows
from staged_users
