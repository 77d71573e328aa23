-- Grain: one action of an operator in the console, latest first; the latest 50.
select
    started_at,
    operator,
    action,
    subject,
    detail,
    outcome
from console_actions
order by action_id desc
limit 50
