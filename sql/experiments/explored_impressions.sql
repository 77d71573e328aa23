-- Grain: one impression of a recommendation with a logged propensity: its position was filled by exploration.
-- Inputs: events, shopper_outcomes (without bots and internal traffic).
-- Output: the position, the propensity of the item there, the visitor, and whether the impression was clicked.
select
    impressions.position,
    finite_number(impressions.properties ->> 'propensity') as propensity,
    shopper_outcomes.visitor,
    exists(
        select 1
        from events as actions
        where
            actions.request_id = impressions.request_id
            and actions.item_id = impressions.item_id
            and actions.event_type in ('view', 'add_to_cart', 'purchase')
    ) as clicked
from events as impressions
inner join shopper_outcomes on impressions.request_id = shopper_outcomes.request_id
where
    impressions.event_type = 'impression'
    and impressions.event_time >= :begins
    and impressions.event_time < :ends
    and shopper_outcomes.model_version = :model_version
    and shopper_outcomes.arm = any(:arms)
    and shopper_outcomes.list = 'recommendations'
    and finite_number(impressions.properties ->> 'propensity') > 0
