-- Grain: one snapshot.
-- Output: its row of snapshots; a snapshot with the same content and cut-off has the same id and is registered once.
insert into snapshots (snapshot_id, cutoff, as_of_change, location, manifest, has_chosen_cutoff)
values (:snapshot_id, :cutoff, :as_of_change, :location, cast(:manifest as jsonb), :has_chosen_cutoff)
on conflict (snapshot_id) do update
    set has_chosen_cutoff = snapshots.has_chosen_cutoff and excluded.has_chosen_cutoff
