-- The tables a batch lands in, in its own schema: rows as their source had them, every value still text, so that
-- validation sees what was sent.
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

-- Events whose id another row of the batch has; hardly any batch has some.
create table repeated_events (
    row_number integer not null,
    is_same boolean not null
);

-- Ids that other batches have landed but not loaded: the events of a shop often come beside its new items.
create table pending_items (item_id text primary key);
create table pending_users (user_id text primary key);
