-- Grain: one item with an action before :until, with the number of its actions and of those in the last four weeks
-- before :until.
select
    item_id,
    count(*) as ever,
    count(*) filter (where event_time >= cast(:until as timestamptz) - interval '28 days') as lately
from events
where
    event_type in ('view', 'add_to_cart', 'purchase')
    and item_id is not null
    and source <> 'feedback'
    and event_time < cast(:until as timestamptz)
group by item_id
