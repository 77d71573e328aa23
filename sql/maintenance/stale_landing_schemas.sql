-- Grain: one stale landing schema: a batch landed longer ago than :waiting and not loaded. Reads: batches.
select batches.number
from batches
inner join pg_namespace on pg_namespace.nspname = 'landing_' || cast(batches.number as text)
where batches.status in ('landed', 'validated', 'rejected') and batches.landed_at < now() - cast(:waiting as interval)
