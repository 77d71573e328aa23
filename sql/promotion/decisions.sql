-- Grain: one decision that changes the deployed version or the rollout, oldest first.
select
    model_version,
    run_id,
    snapshot_id,
    bundle_digest,
    decision,
    decided_at
from promotions
where decision <> 'refused' and bundle_digest is not null
order by promotion_id
