-- Grain: one quarantined row (per broken rule) that a person corrected. Writes: quarantine.
update quarantine set raw = cast(:raw as jsonb)
where
    batch_id = :batch_id
    and kind = :kind
    and row_number = :row_number
    and resolved_at is null
    and exists (
        select 1 from batches
        where batches.batch_id = quarantine.batch_id and batches.status = 'loaded'
    )
