-- Grain: one model version: shoppers it was shown to since a time, and how many of them acted on what it showed.
-- Visits without any id never take part in a trial, so they are left out on both sides.
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
