-- Internal and bot traffic is excluded from metrics and training: said once, for all that reads events.

-- The lists of other traffic; only the first impression of a list says whose it is.
create index events_for_others on events (request_id)
where event_type = 'impression' and properties ->> 'traffic' <> 'shopper';

-- Events of shoppers in [begins, ends), as of a change (null: all changes). Excluded are internal and bot events, the
-- events of internal and bot lists, and events of visitors flagged as bots.
create function shopper_events(begins timestamptz, ends timestamptz, as_of_change integer)
returns setof events language sql stable as $$
    select events.*  -- noqa: AM04
    from events
    left join bot_visitors
        on
            visitor_of(events.user_id, events.session_id) = bot_visitors.visitor
            and cast(events.event_time at time zone 'UTC' as date) = bot_visitors.day
            and (as_of_change is null or bot_visitors.change_number <= as_of_change)
    where
        events.event_time >= begins
        and events.event_time < ends
        and (as_of_change is null or events.batch in (select number from batches where change_number <= as_of_change))
        and coalesce(events.properties ->> 'traffic', 'shopper') = 'shopper'
        and bot_visitors.visitor is null
        and not exists (
            select 1
            from events as lists
            where
                lists.request_id = events.request_id
                and lists.event_type = 'impression'
                and lists.properties ->> 'traffic' <> 'shopper'
                and (
                    as_of_change is null
                    or lists.batch in (select number from batches where change_number <= as_of_change)
                )
        )
$$;

-- Impressions of shoppers in the days before a cut-off, as of a change, and whether each was acted on in its list.
create function shopper_impressions(cutoff timestamptz, as_of_change integer, days integer) returns table (
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
        cast(shown.properties ->> 'score' as numeric),
        shown.properties ->> 'source',
        acted_on.item_id is not null
    from shopper_events(cutoff - make_interval(days => days), cutoff, as_of_change) as shown
    left join acted_on on shown.request_id = acted_on.request_id and shown.item_id = acted_on.item_id
    where shown.event_type = 'impression' and shown.request_id is not null
$$;
