-- Grain: one user that a batch's good events name.
create table implied_users as
select distinct user_id
from staged_events
where broken_rules is null and user_id is not null
