-- Opens an alarm, or updates the open one with the latest evidence. Grain: one open alarm.
insert into alarms (rule, model_version, action, explanation, evidence)
values (:rule, :model_version, :action, :explanation, cast(:evidence as jsonb))
on conflict (rule, model_version) where closed_at is null do update set
    action = excluded.action,
    explanation = excluded.explanation,
    evidence = excluded.evidence,
    seen_at = now()
