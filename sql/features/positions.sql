-- Grain: one item at one place of the lists of the weeks before the cut-off, as far as the batches up to :known tell:
-- how often it was shown there, and how often it was acted on. Machines are left out.
with shown as (
    select
        events.request_id,
        events.item_id,
        events.position
    from events
    inner join batches on events.batch = batches.number
    left join flagged_visitors
        on
            visitor_of(events.user_id, events.session_id) = flagged_visitors.visitor
            and cast(events.event_time at time zone 'UTC' as date) = flagged_visitors.day
            and flagged_visitors.loaded_number <= :known
    where
        events.event_type = 'impression'
        and events.event_time >= cast(:cutoff as timestamptz) - interval '28 days'
        and events.event_time < :cutoff
        and events.position <= :places
        and events.request_id is not null
        and batches.loaded_number <= :known
        and flagged_visitors.visitor is null
),

acted as (
    select distinct
        events.request_id,
        events.item_id
    from events
    inner join batches on events.batch = batches.number
    where
        events.event_type in ('view', 'add_to_cart', 'purchase')
        and events.request_id is not null
        and events.event_time >= cast(:cutoff as timestamptz) - interval '28 days'
        and events.event_time < :cutoff
        and batches.loaded_number <= :known
)

select
    shown.item_id,
    shown.position,
    count(*) as shown,
    count(acted.item_id) as acted
from shown
left join acted on shown.request_id = acted.request_id and shown.item_id = acted.item_id
group by shown.item_id, shown.position
order by shown.item_id collate "C", shown.position
