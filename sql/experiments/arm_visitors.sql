-- Grain: one arm of one experiment, over all kinds of lists, between :begins and :ends.
-- Inputs: shopper_outcomes (without bots and internal traffic).
-- Output: the number of distinct visitors.
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
