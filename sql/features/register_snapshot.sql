-- Grain: one snapshot; the same content at the same cut-off is the same snapshot.
insert into snapshots (snapshot_id, cutoff, known, location, manifest)
values (:snapshot_id, :cutoff, :known, :location, cast(:manifest as jsonb))
on conflict (snapshot_id) do nothing
