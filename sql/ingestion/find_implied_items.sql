-- Grain: one item referenced by valid staged events. Reads: staged_events.
create table implied_items as
select distinct item_id
from staged_events
where broken_rules is null and item_id is not null
