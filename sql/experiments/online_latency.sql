-- Grain: one kind of list, model version, experiment and arm, between :begins and :ends.
-- Inputs: shopper_outcomes (without bots and internal traffic).
-- Output: the number of requests, and the median and 99th percentile of the latency in milliseconds.
select
    shopper_outcomes.list,
    shopper_outcomes.model_version,
    shopper_outcomes.experiment,
    shopper_outcomes.arm,
    count(*) as requests,
    percentile_cont(0.5) within group (order by shopper_outcomes.milliseconds) as p50,
    percentile_cont(0.99) within group (order by shopper_outcomes.milliseconds) as p99
from shopper_outcomes
where
    shopper_outcomes.day between cast(cast(:begins as timestamptz) at time zone 'UTC' as date)
    and cast(cast(:ends as timestamptz) at time zone 'UTC' as date)
    and shopper_outcomes.shown_at >= :begins
    and shopper_outcomes.shown_at < :ends
    and shopper_outcomes.milliseconds is not null
group by shopper_outcomes.list, shopper_outcomes.model_version, shopper_outcomes.experiment, shopper_outcomes.arm
