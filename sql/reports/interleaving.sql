-- Grain: one visitor of an arm whose lists are two in one, with how many items of each team were clicked.
select
    request_outcomes.experiment,
    request_outcomes.arm,
    request_outcomes.visitor,
    team.value as team,
    count(*) as clicks
from request_outcomes
cross join lateral jsonb_array_elements_text(request_outcomes.team_clicks) as team (value)
left join flagged_visitors
    on request_outcomes.visitor = flagged_visitors.visitor and request_outcomes.day = flagged_visitors.day
where
    request_outcomes.day between cast(cast(:begins as timestamptz) at time zone 'UTC' as date)
    and cast(cast(:ends as timestamptz) at time zone 'UTC' as date)
    and request_outcomes.shown_at >= :begins
    and request_outcomes.shown_at < :ends
    and request_outcomes.team_clicks is not null
    and request_outcomes.traffic = 'shopper'
    and flagged_visitors.visitor is null
group by 1, 2, 3, 4
