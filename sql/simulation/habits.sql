-- Grain: one user and item, with the number of actions and sessions.
-- The sample of :shoppers users is by digest of :seed and user id.
with chosen as (
    select user_id
    from events
    where user_id is not null and event_type in ('view', 'add_to_cart', 'purchase') and source <> 'feedback'
    group by user_id
    having count(*) >= :fewest
    order by md5(cast(:seed as text) || user_id)
    limit :shoppers
)

select
    events.user_id,
    events.item_id,
    count(*) as taken,
    count(distinct coalesce(events.session_id, cast(cast(events.event_time as date) as text))) as sessions
from events
inner join chosen on events.user_id = chosen.user_id
where
    events.item_id is not null
    and events.event_type in ('view', 'add_to_cart', 'purchase')
    and events.source <> 'feedback'
group by events.user_id, events.item_id
order by events.user_id collate "C", events.item_id collate "C"
