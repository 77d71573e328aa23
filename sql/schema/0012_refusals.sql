-- A refusal is identified by version, bundle and reasons, so that a retried task does not record it again.
delete from promotions as later
using promotions as first
where
    later.decision = 'refused'
    and first.decision = 'refused'
    and later.model_version = first.model_version
    and later.bundle_digest is not distinct from first.bundle_digest
    and later.reasons = first.reasons
    and later.promotion_id > first.promotion_id;

create unique index promotions_refused_once on promotions (
    model_version, coalesce(bundle_digest, ''), md5(cast(reasons as text))
) where decision = 'refused';
