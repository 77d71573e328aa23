-- Grain: one metric of one model version and arm ('' for all), of the latest day that has it.
-- Inputs: online_metrics. For metrics that cannot be summed over days, such as latency.
-- Output: the metric's value.
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
