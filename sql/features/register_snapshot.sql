-- Grain: one snapshot.
-- Output: its row of snapshots; a snapshot with the same content and cut-off has the same id and is registered once.
-- Building it again without an explicit cutoff clears the mark.
insert into snapshots (snapshot_id, cutoff, as_of_change, location, manifest, has_explicit_cutoff)
values (:snapshot_id, :cutoff, :as_of_change, :location, cast(:manifest as jsonb), :has_explicit_cutoff)
on conflict (snapshot_id) do update
    set has_explicit_cutoff = snapshots.has_explicit_cutoff and excluded.has_explicit_cutoff
