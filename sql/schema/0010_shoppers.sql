-- Who is no shopper counts nowhere and teaches nothing: said once, for all that reads events.

-- The few lists that no shopper asked for: what holds for a list is said with its first impression alone.
create index events_for_others on events (request_id)
where event_type = 'impression' and properties ->> 'traffic' <> 'shopper';

-- What shoppers were shown and did in some time, as far as the batches up to a change tell (null: all of them); without
-- what says itself that it is a bot's or the shop's own, what belongs to a list that says so, and flagged machines.
create function shopper_events(begins timestamptz, ends timestamptz, known integer)
returns setof events language sql stable as $$
    select events.*  -- noqa: AM04
    from events
    left join flagged_visitors
        on
            visitor_of(events.user_id, events.session_id) = flagged_visitors.visitor
            and cast(events.event_time at time zone 'UTC' as date) = flagged_visitors.day
            and (known is null or flagged_visitors.loaded_number <= known)
    where
        events.event_time >= begins
        and events.event_time < ends
        and (known is null or events.batch in (select number from batches where loaded_number <= known))
        and coalesce(events.properties ->> 'traffic', 'shopper') = 'shopper'
        and flagged_visitors.visitor is null
        and not exists (
            select 1
            from events as lists
            where
                lists.request_id = events.request_id
                and lists.event_type = 'impression'
                and lists.properties ->> 'traffic' <> 'shopper'
                and (known is null or lists.batch in (select number from batches where loaded_number <= known))
        )
$$;

-- What shoppers were shown in some days before a cut-off, and whether they acted on it there, as far as the batches up
-- to a change tell.
create or replace function shown_before(cutoff timestamptz, known integer, days integer) returns table (
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
            told.request_id,
            told.item_id
        from shopper_events(cutoff - make_interval(days => days), cutoff, known) as told
        where told.event_type in ('view', 'add_to_cart', 'purchase') and told.request_id is not null
    )

    select
        visitor_of(shown.user_id, shown.session_id),
        shown.item_id,
        shown.request_id,
        shown.event_time,
        shown.position,
        cast(shown.properties ->> 'score' as numeric),
        shown.properties ->> 'source',
        acts.item_id is not null
    from shopper_events(cutoff - make_interval(days => days), cutoff, known) as shown
    left join acts on shown.request_id = acts.request_id and shown.item_id = acts.item_id
    where shown.event_type = 'impression' and shown.request_id is not null
$$;
