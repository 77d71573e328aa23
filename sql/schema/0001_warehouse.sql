-- The warehouse of one shop: what was landed, what was accepted, what was refused and why.

-- One row per landed batch: a file's content or a source's data interval. Its id is a digest of that content.
create table batches (
    batch_id text primary key,
    source text not null,
    origin text not null,
    interval_start timestamptz,
    interval_end timestamptz,
    status text not null check (status in ('landed', 'validated', 'loaded', 'rejected')),
    -- Whether the events are all that is known of their items and users, which then come from them.
    implies_items boolean not null default false,
    implies_users boolean not null default false,
    read_rows bigint not null,
    inserted_rows bigint not null default 0,
    quarantined_rows bigint not null default 0,
    message text,
    landed_at timestamptz not null default now(),
    finished_at timestamptz
);
create index batches_by_source on batches (source, finished_at);

-- Landing: rows as their source had them, every value still text, so that validation sees what was sent.
create table landing_items (
    batch_id text not null references batches on delete cascade,
    row_number bigint not null,
    item_id text,
    title text,
    category_path text,
    brand text,
    price text,
    properties text,
    available_from text,
    available_until text,
    primary key (batch_id, row_number)
);

create table landing_users (
    batch_id text not null references batches on delete cascade,
    row_number bigint not null,
    user_id text,
    properties text,
    primary key (batch_id, row_number)
);

create table landing_events (
    batch_id text not null references batches on delete cascade,
    row_number bigint not null,
    event_id text,
    user_id text,
    session_id text,
    item_id text,
    event_type text,
    event_time text,
    query text,
    quantity text,
    price text,
    request_id text,
    position text,
    properties text,
    primary key (batch_id, row_number)
);

create table items (
    item_id text primary key,
    title text,
    category_path text,
    brand text,
    price numeric,
    properties jsonb not null default '{}',
    available_from timestamptz,
    available_until timestamptz,
    source text not null,
    updated_at timestamptz not null default now()
);

create table users (
    user_id text primary key,
    properties jsonb not null default '{}',
    source text not null,
    updated_at timestamptz not null default now()
);

create table events (
    event_id text primary key,
    user_id text,
    session_id text,
    item_id text,
    event_type text not null check (
        event_type in ('search', 'impression', 'view', 'add_to_cart', 'purchase')
    ),
    event_time timestamptz not null,
    query text,
    quantity numeric,
    price numeric,
    request_id text,
    position integer,
    properties jsonb not null default '{}',
    source text not null,
    batch_id text not null references batches,
    ingested_at timestamptz not null default now()
);
create index events_by_time on events using brin (event_time);
create index events_by_request on events (request_id) where request_id is not null;

-- Rows that were refused, whole, with the rule they broke.
create table quarantine (
    batch_id text not null references batches,
    kind text not null check (kind in ('items', 'users', 'events', 'lines')),
    row_number bigint not null,
    rule text not null,
    reason text not null,
    raw jsonb not null,
    quarantined_at timestamptz not null default now(),
    primary key (batch_id, kind, row_number, rule)
);

create table snapshots (
    snapshot_id text primary key,
    cutoff timestamptz not null,
    location text not null,
    manifest jsonb not null,
    created_at timestamptz not null default now()
);

create table promotions (
    promotion_id bigint generated always as identity primary key,
    model_version text not null,
    run_id text not null,
    snapshot_id text not null,
    bundle_digest text,
    decision text not null check (decision in ('promoted', 'refused', 'failed', 'rolled_back')),
    reasons jsonb not null,
    decided_at timestamptz not null default now()
);

-- How far each endpoint's journal has been read.
create table feedback_cursors (
    endpoint text not null,
    segment text not null,
    read_bytes bigint not null,
    updated_at timestamptz not null default now(),
    primary key (endpoint, segment)
);
