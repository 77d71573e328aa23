-- Rows that a removal takes from `events`, and held ones that it brings back; for the length of a transaction.
create temporary table vacated_events (
    source text not null,
    event_id text not null,
    event_key bigint not null,
    event_time timestamptz not null
) on commit drop;
create temporary table unhidden_events (held_id bigint not null) on commit drop;
create temporary table restored_events (
    batch integer not null,
    row_number integer,
    event_time timestamptz not null,
    reason text not null
) on commit drop;
