-- Grain: one alarm that holds: a new one, or the open one with what was seen last.
insert into alarms (rule, model_version, action, explanation, evidence)
values (:rule, :model_version, :action, :explanation, cast(:evidence as jsonb))
on conflict (rule, model_version) where closed_at is null do update set
    action = excluded.action,
    explanation = excluded.explanation,
    evidence = excluded.evidence,
    seen_at = now()
