-- Grain: one action of a person in the console, latest first; the last 50.
select
    started_at,
    person,
    action,
    subject,
    detail,
    outcome
from console_actions
order by action_id desc
limit 50
