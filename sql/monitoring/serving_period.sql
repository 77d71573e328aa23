-- Grain: one row: first and last impression to shoppers, of one version, or of all versions ('').
select
    min(shown_at) as first_time,
    max(shown_at) as last_time
from request_outcomes
where traffic = 'shopper' and (:model_version = '' or model_version = :model_version)
