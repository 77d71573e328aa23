-- Grain: one value of a feature (:of) of user actions in [:begins, :ends), with its event count. Input of the drift
-- monitors (PSI). Only feedback events, without bots: distributions of other sources are not comparable.
-- Items and categories count one event type, since views depend on what is shown.
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
left join bot_visitors
    on
        visitor_of(events.user_id, events.session_id) = bot_visitors.visitor
        and cast(events.event_time at time zone 'UTC' as date) = bot_visitors.day
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
    and bot_visitors.visitor is null
group by 1
