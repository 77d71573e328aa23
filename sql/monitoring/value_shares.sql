-- Grain: one value of one kind (:of) of what users did at the endpoints in some time, with how often. What machines did
-- is left out, and what other sources tell, which is no like to be compared with.
-- Items and categories are those that were taken by one type of event, as what is looked at depends on what is shown.
select
    case
        when :of = 'categories' then coalesce(items.category_path, '')
        when :of = 'items' then events.item_id
        when :of = 'queries' then lower(events.query)
        else events.event_type
    end as value,
    count(*) as events
from events
left join items on :of = 'categories' and events.item_id = items.item_id
left join flagged_visitors
    on
        visitor_of(events.user_id, events.session_id) = flagged_visitors.visitor
        and cast(events.event_time at time zone 'UTC' as date) = flagged_visitors.day
where
    events.event_time >= :begins
    and events.event_time < :ends
    and events.source = 'feedback'
    and events.event_type <> 'impression'
    and case
        when :of = 'queries' then events.event_type = 'search'
        when :of = 'event_types' then true
        else events.event_type = :event_type and events.item_id is not null
    end
    and coalesce(events.properties ->> 'traffic', 'shopper') = 'shopper'
    and flagged_visitors.visitor is null
group by 1
