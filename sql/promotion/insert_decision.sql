-- Grain: one decision about one model version, with every reason; none where the same refusal stands there already.
insert into promotions (
    model_version, run_id, snapshot_id, bundle_digest, decision, reasons, approved_by, evidence
)
values (
    :model_version,
    :run_id,
    :snapshot_id,
    :bundle_digest,
    :decision,
    cast(:reasons as jsonb),
    :approved_by,
    cast(:evidence as jsonb)
)
on conflict do nothing
