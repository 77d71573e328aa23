-- Grain: one promotion decision, oldest first.
select
    decided_at,
    model_version,
    run_id,
    decision,
    reasons
from promotions
order by promotion_id
