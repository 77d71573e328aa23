-- Grain: one promotion decision, latest first; the last 100.
select
    promotion_id,
    decided_at,
    model_version,
    run_id,
    snapshot_id,
    decision,
    reasons,
    approved_by
from promotions
order by promotion_id desc
limit 100
