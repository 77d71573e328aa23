-- Grain: one model version, between :begins and :ends.
-- Inputs: shopper_events (without bots and internal traffic), item_versions.
-- Output: catalog coverage: the number and the share of catalog items that the version showed.
with shown_items as (
    select distinct
        properties ->> 'model_version' as model_version,
        item_id
    from shopper_events(:begins, :ends, null)
    where event_type = 'impression'
)

select
    model_version,
    count(*) as items,
    cast(count(*) as double precision) / greatest((select count(distinct item_id) from item_versions), 1) as coverage
from shown_items
where model_version is not null
group by model_version
