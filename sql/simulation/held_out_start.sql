-- Grain: one row: start of the latest sessions that a first snapshot holds out for test, by :test_share of the sessions
-- and at most :max_held_out_sessions; null without any.
with sessions as (
    select min(events.event_time) as started_at
    from events
    where
        events.event_type in ('view', 'add_to_cart', 'purchase')
        and events.item_id is not null
        and events.source <> 'feedback'
    group by events.user_id, coalesce(events.session_id, cast(cast(events.event_time as date) as text))
),

ranked as (
    select
        started_at,
        row_number() over (order by started_at desc) as recency,
        count(*) over () as sessions
    from sessions
)

select min(started_at) as held_out_start
from ranked
where recency <= least(ceil(:test_share * sessions), :max_held_out_sessions)
