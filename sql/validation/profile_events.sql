-- Grain: one row, the metrics of a staged batch of events. All but the first two count valid rows only.
-- Reads: staged_events.
select
    count(*) as rows,
    count(broken_rules) as bad_rows,
    count(*) filter (where is_valid and user_id is null) as null_user_id,
    count(*) filter (where is_valid and session_id is null) as null_session_id,
    count(*) filter (where is_valid and item_id is null) as null_item_id,
    count(*) filter (where is_valid and price is null) as null_price,
    count(*) filter (where is_valid and event_type = 'search') as type_search,
    count(*) filter (where is_valid and event_type = 'impression') as type_impression,
    count(*) filter (where is_valid and event_type = 'view') as type_view,
    count(*) filter (where is_valid and event_type = 'add_to_cart') as type_add_to_cart,
    count(*) filter (where is_valid and event_type = 'purchase') as type_purchase,
    min(event_time) filter (where is_valid) as first_time,
    max(event_time) filter (where is_valid) as last_time
from (
    select
        *,
        broken_rules is null as is_valid
    from staged_events
) as staged
