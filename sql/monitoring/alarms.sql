-- Grain: one alarm, the latest first.
select
    rule,
    model_version,
    action,
    explanation,
    raised_at,
    outcome,
    closed_at
from alarms
order by alarm_id desc
limit 50
