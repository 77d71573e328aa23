-- Grain: one promotion decision, latest first; the last 100.
select
    decided_at,
    model_version,
    decision,
    reasons,
    approved_by
from promotions
order by promotion_id desc
limit 100
