-- Snapshots may be in a remote store.
comment on column snapshots.location is 'Path or address of the manifest.';
comment on column recommendation_lineage.snapshot_location is 'Path or address of the manifest.';
