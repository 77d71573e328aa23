-- Grain: one arm of an experiment, with how many visitors it had, on whatever kind of list.
select
    request_outcomes.experiment,
    request_outcomes.arm,
    count(distinct request_outcomes.visitor) as visitors
from request_outcomes
left join flagged_visitors
    on request_outcomes.visitor = flagged_visitors.visitor and request_outcomes.day = flagged_visitors.day
where
    request_outcomes.day between cast(cast(:begins as timestamptz) at time zone 'UTC' as date)
    and cast(cast(:ends as timestamptz) at time zone 'UTC' as date)
    and request_outcomes.shown_at >= :begins
    and request_outcomes.shown_at < :ends
    and request_outcomes.arm <> ''
    and request_outcomes.traffic = 'shopper'
    and flagged_visitors.visitor is null
group by request_outcomes.experiment, request_outcomes.arm
