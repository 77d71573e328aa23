-- Grain: one snapshot.
-- Output: its row of snapshots; a snapshot with the same content and cut-off has the same id and is registered once.
insert into snapshots (snapshot_id, cutoff, as_of_change, location, manifest)
values (:snapshot_id, :cutoff, :as_of_change, :location, cast(:manifest as jsonb))
on conflict (snapshot_id) do nothing
