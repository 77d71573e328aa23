-- Grain: one score bucket (power of the square root of ten), with the number of first-position impressions in a model
-- version's recommendations in [:begins, :ends). Input of the score drift monitor (PSI).
select
    cast(round(2 * log(greatest(finite_number(properties ->> 'score'), 1e-9))) as text) as value,
    count(*) as events
from events
where
    event_type = 'impression'
    and position = 1
    and event_time >= :begins
    and event_time < :ends
    and properties ->> 'model_version' = :model_version
    and properties ->> 'list' = 'recommendations'
    and properties ->> 'source' = 'model'
    and coalesce(properties ->> 'traffic', 'shopper') = 'shopper'
group by 1
