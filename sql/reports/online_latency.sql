-- Grain: one kind of list, model version and arm: how long answers took from a day until another.
select
    list,
    model_version,
    experiment,
    arm,
    count(*) as requests,
    percentile_cont(0.5) within group (order by milliseconds) as p50,
    percentile_cont(0.99) within group (order by milliseconds) as p99
from request_outcomes
where day between :first_day and :last_day and milliseconds is not null
group by list, model_version, experiment, arm
