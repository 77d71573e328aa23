-- No batch is loaded meanwhile. Validated batches are validated again, because their staged events have old keys.
select pg_advisory_xact_lock(7236102);
update batches set status = 'landed'
where status = 'validated';

-- An event is identified by its source and its id: shops number their events as they like.
create function event_key(source text, event_id text) returns bigint language sql immutable parallel safe
return hashtextextended(event_id, hashtextextended(source, 0));
comment on function event_key(text, text) is '64-bit digest of the source and the id of an event.';
update events set event_key = event_key(source, event_id);
comment on column events.event_id is 'Id, unique within its source.';
comment on column events.event_key is '64-bit digest of source and event_id, for the index.';
-- Finds events with the ids of a batch in time that does not grow with the history.
create index events_by_key on events (event_key);

-- Texts of sources and callers become numbers and times only where every later reader can hold them.
create function finite_number(value text) returns double precision language sql stable parallel safe
return case
    when
        pg_input_is_valid(value, 'numeric')
        and pg_input_is_valid(value, 'double precision')
        and position('n' in lower(value)) = 0  -- NaN, Infinity
        then cast(value as double precision)
end;
comment on function finite_number(text) is 'The number that a text holds; null unless double precision holds it, too.';
create function utc_time(value text) returns timestamptz language sql stable parallel safe
return case
    when value like '____-__-__T%Z' and pg_input_is_valid(value, 'timestamptz') then cast(value as timestamptz)
end;
comment on function utc_time(text) is 'The time that a text in ISO 8601 with zone Z holds; null if it holds none.';
create function has_infinite_number(properties text) returns boolean language sql stable parallel safe
return case
    when properties ~ '\d{255}|[0-9.][eE]\+?\d{3}' and pg_input_is_valid(properties, 'jsonb')
        then
            jsonb_path_exists(
                cast(properties as jsonb),
                '$.** ? (@.type() == "number" && (@ > 1.7e308 || @ < -1.7e308))'
            )
    else false
end;
comment on function has_infinite_number(text) is 'Whether a JSON text has a number beyond double precision.';

create or replace function shopper_impressions(cutoff timestamptz, as_of_change integer, days integer) returns table (
    visitor text,
    item_id text,
    request_id text,
    event_time timestamptz,
    place integer,
    score numeric,
    source text,
    acted boolean
) language sql stable as $$
    with acted_on as (
        select distinct
            actions.request_id,
            actions.item_id
        from shopper_events(cutoff - make_interval(days => days), cutoff, as_of_change) as actions
        where actions.event_type in ('view', 'add_to_cart', 'purchase') and actions.request_id is not null
    )

    select
        visitor_of(shown.user_id, shown.session_id),
        shown.item_id,
        shown.request_id,
        shown.event_time,
        shown.position,
        cast(finite_number(shown.properties ->> 'score') as numeric),
        shown.properties ->> 'source',
        acted_on.item_id is not null
    from shopper_events(cutoff - make_interval(days => days), cutoff, as_of_change) as shown
    left join acted_on on shown.request_id = acted_on.request_id and shown.item_id = acted_on.item_id
    where shown.event_type = 'impression' and shown.request_id is not null
$$;

-- Daily partitions give the actions before a login to the user now, and break ties by the new key: all are built anew.
delete from feature_partitions;

-- Conflicts are found while a batch is loaded, after its validation: they count towards the same limit.
alter table batches add column max_bad_share double precision;
comment on column batches.max_bad_share is 'Share of bad rows above which it is rejected; null before validation.';
alter table batches add column landing_warnings text[] not null default '{}';
comment on column batches.landing_warnings is 'What was noticed in the file while it was landed; also in warnings.';
alter table batches add column forgotten_rows bigint not null default 0;
comment on column batches.forgotten_rows is 'Rows of erased users, which are left out.';
alter table batches add column kinds text[] not null default '{}';
comment on column batches.kinds is 'What its source delivers, also where it is empty: items, users or events.';
