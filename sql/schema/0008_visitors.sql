-- How a visitor is known: a user by the id, nobody's session by its own.
create function visitor_of(user_id text, session_id text) returns text language sql immutable parallel safe as $$
    select case when user_id is not null then 'u:' || user_id else 's:' || session_id end
$$;

-- What visitors were shown in some days before a cut-off, and whether they acted on it there, as far as the batches up
-- to a change tell; without machines.
create function shown_before(cutoff timestamptz, known integer, days integer) returns table (
    visitor text,
    item_id text,
    request_id text,
    event_time timestamptz,
    place integer,
    score numeric,
    source text,
    acted boolean
) language sql stable as $$
    with acts as (
        select distinct
            events.request_id,
            events.item_id
        from events
        inner join batches on events.batch = batches.number
        where
            events.event_type in ('view', 'add_to_cart', 'purchase')
            and events.request_id is not null
            and events.event_time >= cutoff - make_interval(days => days)
            and events.event_time < cutoff
            and batches.loaded_number <= known
    )

    select
        visitor_of(events.user_id, events.session_id),
        events.item_id,
        events.request_id,
        events.event_time,
        events.position,
        cast(events.properties ->> 'score' as numeric),
        events.properties ->> 'source',
        acts.item_id is not null
    from events
    inner join batches on events.batch = batches.number
    left join flagged_visitors
        on
            visitor_of(events.user_id, events.session_id) = flagged_visitors.visitor
            and cast(events.event_time at time zone 'UTC' as date) = flagged_visitors.day
            and flagged_visitors.loaded_number <= known
    left join acts on events.request_id = acts.request_id and events.item_id = acts.item_id
    where
        events.event_type = 'impression'
        and events.event_time >= cutoff - make_interval(days => days)
        and events.event_time < cutoff
        and events.request_id is not null
        and batches.loaded_number <= known
        and flagged_visitors.visitor is null
$$;
