-- Grain: one row. When the validation and the test part begin: shares of the latest sessions, by their start.
with starts as (
    select min(event_time) as session_start
    from events
    where event_time < :cutoff and item_id is not null and event_type <> 'impression'
    group by user_id, coalesce(session_id, cast(cast(event_time as date) as text))
)

select
    percentile_disc(:validation_from) within group (order by session_start) as validation_start,
    percentile_disc(:test_from) within group (order by session_start) as test_start
from starts
