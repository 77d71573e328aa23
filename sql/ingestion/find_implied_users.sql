-- Grain: one user referenced by valid staged events. Reads: staged_events.
create table implied_users as
select distinct user_id
from staged_events
where broken_rules is null and user_id is not null
