-- Grain: one change without a source batch. Writes: batches. Returns its id.
insert into batches (batch_id, source, origin, status, read_rows, finished_at)
values (:kind || '-' || gen_random_uuid(), :kind, :origin, 'change', 0, now())
returning batch_id
