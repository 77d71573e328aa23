-- Closes open alarms whose rule does not fire any more. Grain: one closed alarm.
update alarms
set closed_at = now()
where closed_at is null and not (rule = any(:rules) and model_version = :model_version)
