-- Grain: one file of the landing folder in its state at listing time. Writes: landed_files.
insert into landed_files (path, bytes, modified_ns, batch_id)
values (:path, :bytes, :modified_ns, :batch_id)
on conflict (path) do update set
    bytes = excluded.bytes,
    modified_ns = excluded.modified_ns,
    batch_id = excluded.batch_id,
    seen_at = now()
