-- Grain: one visitor and team of one arm with interleaved lists, between :begins and :ends.
-- Inputs: shopper_outcomes (without bots and internal traffic).
-- Output: the number of clicked items of the team.
select
    shopper_outcomes.experiment,
    shopper_outcomes.arm,
    shopper_outcomes.visitor,
    team.value as team,
    count(*) as clicks
from shopper_outcomes
cross join lateral jsonb_array_elements_text(shopper_outcomes.team_clicks) as team (value)
where
    shopper_outcomes.day between cast(cast(:begins as timestamptz) at time zone 'UTC' as date)
    and cast(cast(:ends as timestamptz) at time zone 'UTC' as date)
    and shopper_outcomes.shown_at >= :begins
    and shopper_outcomes.shown_at < :ends
    and shopper_outcomes.team_clicks is not null
group by 1, 2, 3, 4
