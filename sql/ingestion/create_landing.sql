-- Creates the landing tables of a batch in its own schema. All source values are text, so that validation sees the
-- original values.
create table landed_items (
    row_number bigint not null,
    item_id text,
    title text,
    category_path text,
    brand text,
    price text,
    properties text,
    available_from text,
    available_until text,
    valid_from text
);

create table landed_users (
    row_number bigint not null,
    user_id text,
    properties text,
    valid_from text
);

create table landed_vectors (
    row_number bigint not null,
    item_id text,
    space text,
    version text,
    vector text
);

create table landed_events (
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
    properties text
);

-- Events whose id an earlier row of the batch has; usually empty.
create table repeated_events (
    row_number integer not null,
    is_same boolean not null
);

-- Ids landed but not loaded by other batches: events often arrive together with their new items.
create table pending_items (item_id text primary key);
create table pending_users (user_id text primary key);
