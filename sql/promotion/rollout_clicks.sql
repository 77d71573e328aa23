-- Grain: one model version, with its visitors since :since and how many of them acted on its lists.
-- Anonymous visits are excluded on both sides, since rollouts never include them.
with shown as (
    select
        request_id,
        coalesce(user_id, session_id) as person,
        properties ->> 'model_version' as model_version
    from shopper_events(:since, 'infinity', null)
    where
        event_type = 'impression'
        and (user_id is not null or session_id not like 'anonymous-%')
),

acted as (
    select distinct request_id
    from shopper_events(:since, 'infinity', null)
    where event_type in ('view', 'add_to_cart', 'purchase') and request_id is not null
)

select
    shown.model_version,
    count(distinct shown.person) as people,
    count(distinct shown.person) filter (where acted.request_id is not null) as acting
from shown
left join acted on shown.request_id = acted.request_id
where shown.model_version in (:challenger, :champion)
group by shown.model_version
