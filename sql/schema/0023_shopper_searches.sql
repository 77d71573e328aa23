-- Searches of shoppers since a time, with the normalized query, the number of results (null if unknown), and whether
-- there was an action on the results.
create function shopper_searches(since timestamptz) returns table (
    event_id text,
    event_time timestamptz,
    visitor text,
    query_text text,
    results double precision,
    has_action boolean
) language sql stable as $$
    select
        searches.event_id,
        searches.event_time,
        visitor_of(searches.user_id, searches.session_id),
        lower(regexp_replace(btrim(searches.query), '\s+', ' ', 'g')),
        cast(finite_number(searches.properties ->> 'results') as double precision),
        -- By request, this reads the index of requests, and no impressions.
        exists(
            select 1
            from events as actions
            where
                actions.request_id = searches.event_id
                and actions.event_time >= since
                and actions.event_type in ('view', 'add_to_cart', 'purchase')
        )
    from shopper_events(since, 'infinity', null) as searches
    where searches.event_type = 'search'
$$;
comment on function shopper_searches(timestamptz)
is 'Searches of shoppers since a time: normalized query, number of results, and whether there was an action on them.';
