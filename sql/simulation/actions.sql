-- Grain: one action of a sampled user with a known item, in order of time; simulated purchases included, so that a need
-- that was met at the endpoint rests. The sample of :shoppers users is by digest of :seed and user id.
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
    coalesce(events.session_id, cast(cast(events.event_time as date) as text)) as session_id,
    cast(extract(epoch from events.event_time) as double precision) as seconds,
    events.source = 'feedback' as is_simulated
from events
inner join chosen on events.user_id = chosen.user_id
where
    events.item_id is not null
    and (
        events.event_type = 'purchase'
        or (events.event_type in ('view', 'add_to_cart') and events.source <> 'feedback')
    )
order by events.user_id collate "C", seconds, session_id collate "C", events.event_key
