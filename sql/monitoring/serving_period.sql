-- Grain: one row. When shoppers were shown something first and last, by one version or by any ('').
select
    min(shown_at) as first_time,
    max(shown_at) as last_time
from request_outcomes
where traffic = 'shopper' and (:model_version = '' or model_version = :model_version)
