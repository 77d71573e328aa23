-- Grain: one row: time of the latest action that was not simulated, and of the latest one of The Complete Journey.
select
    max(event_time) as last_action,
    max(event_time) filter (where source = 'complete_journey') as last_complete_journey
from events
where event_type in ('view', 'add_to_cart', 'purchase') and source <> 'feedback'
