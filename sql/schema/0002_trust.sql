-- Events partitioned by month, versioned items and users, batches numbered in the order they were loaded.
-- Moves what an earlier warehouse holds.

-- What an event says, in 64 bits: two deliveries of one id with different contents are a conflict.
create function event_content(
    user_id text, session_id text, item_id text, event_type text, event_time timestamptz, query text,
    quantity numeric, price numeric, request_id text, place integer, properties jsonb
) returns bigint language sql stable parallel safe as $$
    select hash_record_extended(
        row(user_id, session_id, item_id, event_type, event_time, query, quantity, price, request_id, place, properties),
        0
    )
$$;

-- Batches -------------------------------------------------------------------------------------------------------

alter table batches
add column number integer generated always as identity,
-- The place of this batch among all that changed the warehouse; a snapshot knows the batches up to some place.
add column loaded_number integer unique,
add column duplicate_rows bigint not null default 0,
add column conflicting_rows bigint not null default 0,
add column on_conflict text not null default 'keep' check (on_conflict in ('keep', 'replace')),
-- Whether the source delivers as things happen, so that old events are a reason to worry.
add column live boolean not null default false,
-- From when to when its good events are.
add column first_event timestamptz,
add column last_event timestamptz,
add column columns text[],
add column new_columns text[] not null default '{}',
add column warnings text[] not null default '{}',
drop constraint batches_status_check,
add constraint batches_status_check check (
    status in ('landed', 'validated', 'loaded', 'rejected', 'retracted', 'change')
),
add constraint batches_number unique (number);

create sequence loaded_numbers as integer;
update batches set loaded_number = numbered.place
from (
    select
        batch_id,
        row_number() over (order by finished_at, landed_at, batch_id) as place
    from batches
    where status = 'loaded'
) as numbered
where batches.batch_id = numbered.batch_id;
select setval('loaded_numbers', coalesce(max(loaded_number), 0) + 1, false) from batches;

-- Landing: each batch has a schema of its own, landing_<number>, which goes when the batch is loaded.
update batches set status = 'rejected', message = 'landed by an earlier version: ingest it again'
where status in ('landed', 'validated');
drop table landing_events, landing_items, landing_users;

-- The files that were taken from the landing folder, so that they are not read again for nothing.
create table landed_files (
    path text primary key,
    bytes bigint not null,
    modified_ns bigint not null,
    batch_id text not null,
    seen_at timestamptz not null default now()
);

-- What a batch looked like in numbers; later batches are compared with it.
create table batch_profiles (
    batch_id text not null references batches on delete cascade,
    kind text not null,
    metric text not null,
    value double precision,
    primary key (batch_id, kind, metric)
);

alter table quarantine
add column value text,
add column resolved_at timestamptz,
drop constraint quarantine_batch_id_fkey,
add constraint quarantine_batch_id_fkey foreign key (batch_id) references batches on delete cascade;
create index quarantine_open on quarantine (rule) where resolved_at is null;

-- Events --------------------------------------------------------------------------------------------------------

alter table events rename to events_before;
alter table events_before drop constraint events_pkey;
drop index events_by_time, events_by_request;
create table events (
    event_id text not null,
    -- A digest of the id: short enough for an index; who compares ids compares both.
    event_key bigint not null,
    user_id text,
    session_id text,
    item_id text,
    event_type text not null,
    event_time timestamptz not null,
    query text,
    quantity numeric,
    price numeric,
    request_id text,
    position integer,
    properties jsonb not null default '{}',
    source text not null,
    -- Where the row came from: batches.number, and the line of its file.
    batch integer not null,
    row_number integer,
    content bigint not null,
    ingested_at timestamptz not null default now(),
    check (event_type in ('search', 'impression', 'view', 'add_to_cart', 'purchase')),
    -- Time first: new events go to the right edge of the index, and a day is a range of it.
    primary key (event_time, event_key)
) partition by range (event_time);
create index events_by_request on events (request_id) where request_id is not null;

create function create_event_month(month date) returns void language plpgsql as $$
begin
    execute format(
        'create table if not exists %I partition of events for values from (%L) to (%L)',
        'events_' || to_char(month, 'YYYY_MM'),
        to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00',
        to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00'
    );
end
$$;
select create_event_month(cast(month as date))
from (select distinct date_trunc('month', event_time at time zone 'UTC') as month from events_before) as months;

insert into events (
    event_id, event_key, user_id, session_id, item_id, event_type, event_time, query, quantity, price, request_id,
    position, properties, source, batch, content, ingested_at
)
select
    event_id,
    hashtextextended(event_id, 0) as event_key,
    user_id,
    session_id,
    item_id,
    event_type,
    event_time,
    query,
    quantity,
    price,
    request_id,
    position,
    properties,
    events_before.source,
    batches.number as batch,
    event_content(
        user_id, session_id, item_id, event_type, event_time, query, quantity, price, request_id, position, properties
    ) as content,
    ingested_at
from events_before
inner join batches on events_before.batch_id = batches.batch_id;
drop table events_before;

-- The days a batch changed: what was built of them before is out of date.
create table batch_days (
    day date not null,
    loaded_number integer not null references batches (loaded_number),
    events bigint not null,
    primary key (day, loaded_number)
);
insert into batch_days (day, loaded_number, events)
select
    cast(event_time at time zone 'UTC' as date) as day,
    loaded_number,
    count(*) as events
from events
inner join batches on events.batch = batches.number
group by 1, 2;

-- Items and users -----------------------------------------------------------------------------------------------

-- A row for each time an item's attributes changed; the row with the latest valid_from up to a time holds at it.
alter table items rename to items_before;
create table item_versions (
    item_id text not null,
    valid_from timestamptz not null,
    batch integer not null,
    title text,
    category_path text,
    brand text,
    price numeric,
    properties jsonb not null default '{}',
    available_from timestamptz,
    available_until timestamptz,
    -- Known only because an event named it.
    implied boolean not null default false,
    source text not null,
    updated_at timestamptz not null default now(),
    primary key (item_id, valid_from, batch)
);
insert into item_versions (
    item_id, valid_from, batch, title, category_path, brand, price, properties, available_from, available_until,
    implied, source, updated_at
)
select
    item_id,
    '-infinity' as valid_from,
    0 as batch,
    title,
    category_path,
    brand,
    price,
    properties,
    available_from,
    available_until,
    coalesce(title, category_path, brand) is null as implied,
    source,
    updated_at
from items_before;
drop table items_before;
create view items as
select distinct on (item_id)
    item_id,
    title,
    category_path,
    brand,
    price,
    properties,
    available_from,
    available_until,
    source,
    updated_at
from item_versions
where valid_from <= now()
order by item_id asc, valid_from desc, batch desc;

alter table users rename to users_before;
create table user_versions (
    user_id text not null,
    valid_from timestamptz not null,
    batch integer not null,
    properties jsonb not null default '{}',
    implied boolean not null default false,
    source text not null,
    updated_at timestamptz not null default now(),
    primary key (user_id, valid_from, batch)
);
insert into user_versions (user_id, valid_from, batch, properties, implied, source, updated_at)
select
    user_id,
    '-infinity' as valid_from,
    0 as batch,
    properties,
    properties = '{}' as implied,
    source,
    updated_at
from users_before;
drop table users_before;
create view users as
select distinct on (user_id)
    user_id,
    properties,
    source,
    updated_at
from user_versions
where valid_from <= now()
order by user_id asc, valid_from desc, batch desc;

-- Users who asked to be forgotten, known only by a digest: what they did until then is not taken in again.
create table forgotten_users (
    user_digest text primary key,
    forgotten_at timestamptz not null default now()
);
create function user_digest(user_id text) returns text language sql immutable parallel safe as $$
    select encode(sha256(convert_to(user_id, 'UTF8')), 'hex')
$$;

-- Features ------------------------------------------------------------------------------------------------------

-- One built part of a snapshot: the events of one day, as of what was known of it and of the sessions that were
-- open when it began.
create table feature_parts (
    day date not null,
    until timestamptz not null,
    last_change integer not null,
    opened_with text not null,
    file text not null,
    open_after text not null,
    events bigint not null,
    sessions bigint not null,
    feedback_events bigint not null,
    built_at timestamptz not null default now(),
    primary key (day, until, last_change, opened_with)
);
alter table snapshots add column known integer not null default 0;

-- The state of the loop, for people and dashboards -----------------------------------------------------------------

-- The rows in quarantine that wait, whatever the number of rules each broke.
create view waiting_rows as
select distinct
    batch_id,
    kind,
    row_number
from quarantine
where resolved_at is null;

create view source_status as
with waiting as (
    select
        batches.source,
        count(*) as quarantined_rows
    from waiting_rows
    inner join batches on waiting_rows.batch_id = batches.batch_id
    group by batches.source
)

select
    batches.source,
    count(*) filter (where batches.status = 'loaded') as loaded_batches,
    count(*) filter (where batches.status = 'rejected') as rejected_batches,
    (array_agg(batches.batch_id order by batches.landed_at desc))[1] as last_batch,
    (array_agg(batches.status order by batches.landed_at desc))[1] as last_status,
    (array_agg(batches.origin order by batches.landed_at desc))[1] as last_origin,
    max(batches.landed_at) as last_landed_at,
    max(batches.last_event) as last_event,
    sum(batches.inserted_rows) as inserted_rows,
    sum(batches.duplicate_rows) as duplicate_rows,
    coalesce(max(waiting.quarantined_rows), 0) as quarantined_rows
from batches
left join waiting on batches.source = waiting.source
where batches.status <> 'change'
group by batches.source;

-- From a served recommendation to the model, the training run and the snapshot it came from.
create view recommendation_lineage as
select
    impressions.request_id,
    impressions.position,
    impressions.item_id,
    impressions.user_id,
    impressions.session_id,
    impressions.event_time as shown_at,
    impressions.properties ->> 'model_version' as model_version,
    promoted.run_id,
    promoted.snapshot_id,
    snapshots.cutoff,
    snapshots.known,
    snapshots.location as snapshot_location
from events as impressions
left join lateral (
    select
        run_id,
        snapshot_id
    from promotions
    where model_version = impressions.properties ->> 'model_version' and decision = 'promoted'
    order by promotion_id desc
    limit 1
) as promoted on true
left join snapshots on promoted.snapshot_id = snapshots.snapshot_id
where impressions.event_type = 'impression';

-- The batches a snapshot was built from, each with the file or interval it came from.
create view snapshot_batches as
select distinct
    snapshots.snapshot_id,
    batches.batch_id,
    batches.source,
    batches.origin,
    batches.interval_start,
    batches.interval_end,
    batches.inserted_rows,
    batches.quarantined_rows,
    batches.loaded_number
from snapshots
inner join batch_days on snapshots.known >= batch_days.loaded_number and snapshots.cutoff > batch_days.day
inner join batches on batch_days.loaded_number = batches.loaded_number
where batches.status in ('loaded', 'retracted');
