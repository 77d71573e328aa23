-- Grain: one request of a day whose impressions were noted, with what came of the items it showed.
-- An action belongs to an impression of its item in the :hours before it: to the one that its request_id names, which
-- may also be up to a day after it where clocks differ; without a request_id to the last one to the visitor.
insert into request_outcomes (
    day, request_id, visitor, session, shown_at, list, model_version, experiment, arm, segment, traffic, sampled,
    milliseconds, impressions, clicks, carts, purchases, revenue, team_clicks
)
with acted as (
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
        and event_time < :ends + make_interval(hours => :hours)
),

-- Actions with a request_id, as far as they came in the time in which its impression may be acted on.
named as (
    select
        request_id,
        item_id,
        carts,
        buys,
        paid
    from acted
    where
        exists (
            select 1
            from events as impressions
            where
                acted.request_id = impressions.request_id
                and acted.item_id = impressions.item_id
                and impressions.event_type = 'impression'
                and impressions.event_time >= :begins
                and impressions.event_time < :ends
                and acted.event_time >= impressions.event_time - interval '1 day'
                and acted.event_time < impressions.event_time + make_interval(hours => :hours)
        )
),

-- Impressions that an action without a request_id may belong to; those of later days take it from this one's.
claimed as (
    select distinct on (acted.visitor, acted.item_id, acted.event_time, acted.carts, acted.buys)
        impressions.request_id,
        impressions.item_id,
        acted.carts,
        acted.buys,
        acted.paid
    from acted
    inner join events as impressions
        on
            acted.item_id = impressions.item_id
            and acted.visitor = visitor_of(impressions.user_id, impressions.session_id)
            and acted.event_time >= impressions.event_time
            and acted.event_time < impressions.event_time + make_interval(hours => :hours)
    where
        acted.request_id is null
        and impressions.event_type = 'impression'
        and impressions.request_id is not null
        and impressions.event_time >= :begins
        and impressions.event_time < :ends + make_interval(hours => :hours)
    order by
        acted.visitor asc, acted.item_id asc, acted.event_time asc, acted.carts asc, acted.buys asc,
        impressions.event_time desc
),

came as (
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
        from named
        union all
        select
            request_id,
            item_id,
            carts,
            buys,
            paid
        from claimed
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
    coalesce(max(cast(shown.properties ->> 'sampled' as real)) filter (where shown.position = 1), 1) as sampled,
    max(cast(shown.properties ->> 'milliseconds' as real)) filter (where shown.position = 1) as milliseconds,
    count(*) as impressions,
    count(came.item_id) as clicks,
    count(*) filter (where came.carted) as carts,
    count(*) filter (where came.bought) as purchases,
    coalesce(sum(came.paid), 0) as revenue,
    jsonb_agg(shown.properties ->> 'team') filter (
        where came.item_id is not null and shown.properties ->> 'team' is not null
    ) as team_clicks
from events as shown
left join came on shown.request_id = came.request_id and shown.item_id = came.item_id
where
    shown.event_type = 'impression'
    and shown.request_id is not null
    and shown.event_time >= :begins
    and shown.event_time < :ends
group by shown.request_id
