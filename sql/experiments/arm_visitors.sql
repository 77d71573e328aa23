-- Grain: one arm of an experiment, with how many visitors it had, on whatever kind of list.
select
    shopper_outcomes.experiment,
    shopper_outcomes.arm,
    count(distinct shopper_outcomes.visitor) as visitors
from shopper_outcomes
where
    shopper_outcomes.day between cast(cast(:begins as timestamptz) at time zone 'UTC' as date)
    and cast(cast(:ends as timestamptz) at time zone 'UTC' as date)
    and shopper_outcomes.shown_at >= :begins
    and shopper_outcomes.shown_at < :ends
    and shopper_outcomes.arm <> ''
group by shopper_outcomes.experiment, shopper_outcomes.arm
