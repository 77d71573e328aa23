-- Grain: one row: time of the latest event in the warehouse.
select max(last_event) as last_event
from batches
where status = 'loaded'
