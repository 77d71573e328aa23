-- Grain: one size of score (a power of the root of ten) of the items that one model version showed first, in lists of
-- recommendations of some arms in some time, with how many.
select
    cast(round(2 * log(greatest(cast(properties ->> 'score' as numeric), 1e-9))) as text) as value,
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
