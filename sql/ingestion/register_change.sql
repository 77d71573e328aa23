-- Grain: one change that is no batch of a source.
insert into batches (batch_id, source, origin, status, read_rows, finished_at)
values (:kind || '-' || gen_random_uuid(), :kind, :origin, 'change', 0, now())
returning batch_id
