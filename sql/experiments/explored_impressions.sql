-- Grain: one place of one list in which chance took part, with the chance that its item came to it, whether it was
-- acted on, and whose list it was. What was shown to machines and to the shop itself is left out.
select
    impressions.position,
    cast(impressions.properties ->> 'propensity' as double precision) as propensity,
    shopper_outcomes.visitor,
    exists(
        select 1
        from events as acted
        where
            acted.request_id = impressions.request_id
            and acted.item_id = impressions.item_id
            and acted.event_type in ('view', 'add_to_cart', 'purchase')
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
    and impressions.properties ->> 'propensity' is not null
