-- Grain: one alarm, latest first; the last 50.
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
