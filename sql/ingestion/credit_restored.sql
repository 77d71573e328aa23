-- Counts restored events as inserted by their batches, and resolves the conflicts that they were. A replaced event was
-- counted as inserted before. Reads: restored_events. Writes: batches, quarantine.
update batches set
    inserted_rows = inserted_rows + restored.duplicates + restored.conflicts,
    duplicate_rows = duplicate_rows - restored.duplicates,
    conflicting_rows = conflicting_rows - restored.conflicts,
    quarantined_rows = quarantined_rows - restored.conflicts
from (
    select
        batch,
        count(*) filter (where reason = 'duplicate') as duplicates,
        count(*) filter (where reason = 'conflict') as conflicts
    from restored_events
    group by batch
) as restored
where batches.number = restored.batch;

update quarantine set resolved_at = coalesce(resolved_at, now())
from restored_events as restored
inner join batches on restored.batch = batches.number
where
    quarantine.batch_id = batches.batch_id
    and quarantine.kind = 'events'
    and quarantine.rule = 'event_id_conflict'
    and quarantine.row_number = restored.row_number;
