-- Grain: one size of score (a power of the root of ten) and one number of looks (the nearest whole one, :most at most)
-- that visitors had had at an item, when it was recommended to them in the week before the cut-off, as far as the
-- batches up to :known tell: how many looks it got then, and how often it was acted on. Machines are left out, and only
-- one in :one_in visitors is looked at.
-- A place gets as many looks as its chance of being looked at (:chances). Looks count from when the item was acted on
-- last, or was not shown for :pause hours.
with shown as (
    select
        visitor_of(events.user_id, events.session_id) as visitor,
        events.item_id,
        events.request_id,
        events.event_time,
        (cast(:chances as double precision[]))[events.position] as looks,
        cast(round(2 * log(greatest(cast(events.properties ->> 'score' as numeric), 1e-9))) as integer) as score_size
    from events
    inner join batches on events.batch = batches.number
    left join flagged_visitors
        on
            visitor_of(events.user_id, events.session_id) = flagged_visitors.visitor
            and cast(events.event_time at time zone 'UTC' as date) = flagged_visitors.day
            and flagged_visitors.loaded_number <= :known
    where
        events.event_type = 'impression'
        and events.event_time >= cast(:cutoff as timestamptz) - interval '7 days'
        and events.event_time < :cutoff
        and events.position <= cardinality(cast(:chances as double precision[]))
        and events.request_id is not null
        and events.properties ->> 'source' = 'model'
        and batches.loaded_number <= :known
        and flagged_visitors.visitor is null
        and hashtextextended(visitor_of(events.user_id, events.session_id), 0) % :one_in = 0
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
        and events.event_time >= cast(:cutoff as timestamptz) - interval '7 days'
        and events.event_time < :cutoff
        and batches.loaded_number <= :known
),

marked as (
    select
        shown.*,
        acted.item_id is not null as acted,
        lag(acted.item_id is not null) over in_time
        or shown.event_time > lag(shown.event_time) over in_time + make_interval(hours => :pause) as is_fresh
    from shown
    left join acted on shown.request_id = acted.request_id and shown.item_id = acted.item_id
    window in_time as (partition by shown.visitor, shown.item_id order by shown.event_time, shown.request_id)
),

streaks as (
    select
        *,
        count(*) filter (where is_fresh) over (
            partition by visitor, item_id order by event_time, request_id
        ) as streak
    from marked
),

looked as (
    select
        score_size,
        looks,
        acted,
        coalesce(
            sum(looks) over (
                partition by visitor, item_id, streak
                order by event_time, request_id
                rows between unbounded preceding and 1 preceding
            ),
            0
        ) as looks_before
    from streaks
)

select
    score_size,
    least(cast(round(looks_before) as integer), :most) as looks_before,
    sum(looks) as looks,
    count(*) filter (where acted) as acted
from looked
group by 1, 2
order by 1, 2
