-- Grain: one open alarm that does not hold any more.
update alarms
set closed_at = now()
where closed_at is null and not (rule = any(:rules) and model_version = :model_version)
