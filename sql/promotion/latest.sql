-- Grain: one row, or none. What was brought to serve last.
select
    model_version,
    bundle_digest
from promotions
where decision in ('promoted', 'rolled_back')
order by promotion_id desc
limit 1
