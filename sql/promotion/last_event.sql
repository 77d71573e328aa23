-- Grain: one row. When the latest event happened that the warehouse has.
select max(last_event) as last_event
from batches
where status = 'loaded'
