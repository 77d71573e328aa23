-- Grain: one size of score (a power of the root of ten) and one number of looks (the nearest whole one, :most at most)
-- that visitors had had at an item, when it was recommended to them in the week before the cut-off, as far as the
-- batches up to :known tell: how many looks it got then, and how often it was acted on. Only shoppers count, and
-- of them one in :one_in visitors.
-- A place gets as many looks as its chance of being looked at (:chances). Looks count from when the item was acted on
-- last, or was not shown for :pause hours.
with shown as (
    select
        visitor,
        item_id,
        request_id,
        event_time,
        source,
        acted,
        (cast(:chances as double precision[]))[place] as looks,
        cast(round(2 * log(greatest(score, 1e-9))) as integer) as score_size
    from shown_before(:cutoff, :known, 7)
    where
        place <= cardinality(cast(:chances as double precision[]))
        and hashtextextended(visitor, 0) % :one_in = 0
),

marked as (
    select
        *,
        lag(acted) over in_time
        or event_time > lag(event_time) over in_time + make_interval(hours => :pause) as is_fresh
    from shown
    window in_time as (partition by visitor, item_id order by event_time, request_id)
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
        source,
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
where source = 'model'
group by 1, 2
order by 1, 2
