-- Grain: one request with impressions on one day (UTC).
-- Inputs: events (impressions and actions). Parameters: the day, its bounds and the attribution window in hours.
-- Output: rows of request_outcomes, with the actions attributed to the request's impressions.
-- An action is attributed to an impression of its item at most :window_hours hours before it. With a request_id, it is
-- attributed to that request's impression, which may also be up to one day later because clocks differ. Without one, it
-- is attributed to the visitor's last impression of the item.
insert into request_outcomes (
    day, request_id, visitor, session, shown_at, list, model_version, experiment, arm, segment, traffic, sampled,
    milliseconds, impressions, clicks, carts, purchases, revenue, team_clicks
)
with actions as (
    select
        request_id,
        item_id,
        event_time,
        visitor_of(user_id, session_id) as visitor,
        event_type in ('add_to_cart', 'purchase') as carts,
        event_type = 'purchase' as buys,
        case when event_type = 'purchase' then coalesce(price, 0) * coalesce(quantity, 1) else 0 end as paid
    from events
    where
        event_type in ('view', 'add_to_cart', 'purchase')
        and item_id is not null
        and event_time >= :begins - interval '1 day'
        and event_time < :ends + make_interval(hours => :window_hours)
),

-- Actions with a request_id, within the attribution window of its impression.
attributed_by_request as (
    select
        request_id,
        item_id,
        carts,
        buys,
        paid
    from actions
    where
        exists (
            select 1
            from events as impressions
            where
                actions.request_id = impressions.request_id
                and actions.item_id = impressions.item_id
                and impressions.event_type = 'impression'
                and impressions.event_time >= :begins
                and impressions.event_time < :ends
                and actions.event_time >= impressions.event_time - interval '1 day'
                and actions.event_time < impressions.event_time + make_interval(hours => :window_hours)
        )
),

-- Actions without a request_id, each with the visitor's last impression in the window. Impressions of later days are
-- candidates too: an action that belongs to one of them is not attributed to this day.
attributed_by_visitor as (
    select distinct on (actions.visitor, actions.item_id, actions.event_time, actions.carts, actions.buys)
        impressions.request_id,
        impressions.item_id,
        actions.carts,
        actions.buys,
        actions.paid
    from actions
    inner join events as impressions
        on
            actions.item_id = impressions.item_id
            and actions.visitor = visitor_of(impressions.user_id, impressions.session_id)
            and actions.event_time >= impressions.event_time
            and actions.event_time < impressions.event_time + make_interval(hours => :window_hours)
    where
        actions.request_id is null
        and impressions.event_type = 'impression'
        and impressions.request_id is not null
        and impressions.event_time >= :begins
        and impressions.event_time < :ends + make_interval(hours => :window_hours)
    order by
        actions.visitor asc, actions.item_id asc, actions.event_time asc, actions.carts asc, actions.buys asc,
        impressions.event_time desc
),

outcomes as (
    select
        request_id,
        item_id,
        bool_or(carts) as carted,
        bool_or(buys) as bought,
        sum(paid) as paid
    from (
        select
            request_id,
            item_id,
            carts,
            buys,
            paid
        from attributed_by_request
        union all
        select
            request_id,
            item_id,
            carts,
            buys,
            paid
        from attributed_by_visitor
    ) as attributed
    group by request_id, item_id
)

select
    cast(:day as date) as day,
    shown.request_id,
    min(visitor_of(shown.user_id, shown.session_id)) as visitor,
    coalesce(min(shown.session_id), 'u:' || min(shown.user_id)) as session,
    min(shown.event_time) as shown_at,
    coalesce(max(shown.properties ->> 'list') filter (where shown.position = 1), 'recommendations') as list,
    coalesce(max(shown.properties ->> 'model_version') filter (where shown.position = 1), '') as model_version,
    coalesce(max(shown.properties ->> 'experiment') filter (where shown.position = 1), '') as experiment,
    coalesce(max(shown.properties ->> 'arm') filter (where shown.position = 1), '') as arm,
    coalesce(max(shown.properties ->> 'segment') filter (where shown.position = 1), '') as segment,
    coalesce(max(shown.properties ->> 'traffic') filter (where shown.position = 1), 'shopper') as traffic,
    coalesce(
        max(least(finite_number(shown.properties ->> 'sampled'), 1)) filter (
            where shown.position = 1 and finite_number(shown.properties ->> 'sampled') > 1e-9
        ),
        1
    ) as sampled,
    max(least(finite_number(shown.properties ->> 'milliseconds'), 1e9)) filter (
        where shown.position = 1
    ) as milliseconds,
    count(*) as impressions,
    count(outcomes.item_id) as clicks,
    count(*) filter (where outcomes.carted) as carts,
    count(*) filter (where outcomes.bought) as purchases,
    coalesce(sum(outcomes.paid), 0) as revenue,
    jsonb_agg(shown.properties ->> 'team') filter (
        where outcomes.item_id is not null and shown.properties ->> 'team' is not null
    ) as team_clicks
from events as shown
left join outcomes on shown.request_id = outcomes.request_id and shown.item_id = outcomes.item_id
where
    shown.event_type = 'impression'
    and shown.request_id is not null
    and shown.event_time >= :begins
    and shown.event_time < :ends
group by shown.request_id
