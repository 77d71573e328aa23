-- Grain: one row. The last of all changes of the warehouse so far.
select coalesce(max(loaded_number), 0) as known
from batches
