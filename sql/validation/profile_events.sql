-- Grain: one row. What a staged batch of events looks like in numbers; of good rows but for the first two.
select
    count(*) as rows,
    count(broken_rules) as bad_rows,
    count(*) filter (where good and user_id is null) as null_user_id,
    count(*) filter (where good and session_id is null) as null_session_id,
    count(*) filter (where good and item_id is null) as null_item_id,
    count(*) filter (where good and price is null) as null_price,
    count(*) filter (where good and event_type = 'search') as type_search,
    count(*) filter (where good and event_type = 'impression') as type_impression,
    count(*) filter (where good and event_type = 'view') as type_view,
    count(*) filter (where good and event_type = 'add_to_cart') as type_add_to_cart,
    count(*) filter (where good and event_type = 'purchase') as type_purchase,
    min(event_time) filter (where good) as first_time,
    max(event_time) filter (where good) as last_time
from (
    select
        *,
        broken_rules is null as good
    from staged_events
) as staged
