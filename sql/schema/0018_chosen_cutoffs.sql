-- Snapshots of a point in time in the past are never the latest one.

alter table snapshots
add column has_chosen_cutoff boolean not null default false;
comment on column snapshots.has_chosen_cutoff is
'Whether somebody chose the cutoff; such a snapshot may lack later events.';
