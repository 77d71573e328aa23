-- Grain: one decision about a model version, latest first.
select
    decided_at,
    run_id,
    snapshot_id,
    decision,
    reasons,
    approved_by
from promotions
where model_version = :version
order by promotion_id desc
