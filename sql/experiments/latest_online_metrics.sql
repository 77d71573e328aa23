-- Grain: one figure of one version and arm ('' for all) that is no sum over days, such as latency, of the latest day
-- that has it.
select distinct on (model_version, arm, metric)
    model_version,
    arm,
    metric,
    value
from online_metrics
where
    metric = any(:metrics)
    and list in ('', 'recommendations')
    and value is not null
order by model_version asc, arm asc, metric asc, day desc
