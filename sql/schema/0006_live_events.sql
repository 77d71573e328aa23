-- What users just did, for endpoints that share it: a row for the user and one for the session.
create table live_events (
    key text not null,
    event_id text not null,
    user_id text,
    event_time timestamptz not null,
    told_at timestamptz not null default clock_timestamp(),
    event text not null,
    primary key (key, event_id)
);
create index live_events_told_idx on live_events (key, told_at);
create index live_events_user_idx on live_events (user_id);
create index live_events_age_idx on live_events (told_at);
