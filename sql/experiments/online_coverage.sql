-- Grain: one model version, with the share of the catalogue that it showed to shoppers in some time.
with shown as (
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
from shown
where model_version is not null
group by model_version
