-- Grain: one row.
-- Inputs: batches.
-- Output: the number of the latest change of the warehouse, 0 without any.
select coalesce(max(change_number), 0) as as_of_change
from batches
