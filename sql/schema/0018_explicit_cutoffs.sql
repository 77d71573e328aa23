-- Marks snapshots with an explicit cutoff: they count as the latest only if there is no other.
-- Daily partitions are built again, with the dwell times of their events.

alter table snapshots
add column has_explicit_cutoff boolean not null default false;
comment on column snapshots.has_explicit_cutoff is
'Whether the cutoff was given explicitly; such a snapshot may lack later events.';
delete from feature_partitions;
