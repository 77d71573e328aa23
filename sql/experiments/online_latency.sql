-- Grain: one kind of list, model version and arm: how long answers took in some time.
select
    list,
    model_version,
    experiment,
    arm,
    count(*) as requests,
    percentile_cont(0.5) within group (order by milliseconds) as p50,
    percentile_cont(0.99) within group (order by milliseconds) as p99
from request_outcomes
where
    day between cast(cast(:begins as timestamptz) at time zone 'UTC' as date)
    and cast(cast(:ends as timestamptz) at time zone 'UTC' as date)
    and shown_at >= :begins
    and shown_at < :ends
    and milliseconds is not null
group by list, model_version, experiment, arm
