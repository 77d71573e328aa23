-- Grain: one decision about one model version, with its reasons. A repeated identical refusal is not inserted again.
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
