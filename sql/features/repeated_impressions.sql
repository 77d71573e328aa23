-- Grain: one score bucket and one number of earlier unclicked impressions, in the 7 days before the cut-off, as of
-- change :as_of_change.
-- Inputs: shopper_impressions (impressions to shoppers), of one in :one_in visitors.
-- Output: the expected number of examined impressions recommended by a model, and the number of clicks.
-- A score bucket is a power of the square root of 10. An impression counts as its examination propensity (:propensities
-- by position). The unclicked impressions of an item are summed since its last click or its last pause of :pause_hours
-- hours, rounded, and capped at :max_unclicked.
with impressions as (
    select
        visitor,
        item_id,
        request_id,
        event_time,
        source,
        acted,
        (cast(:propensities as double precision[]))[place] as examined,
        cast(round(2 * log(greatest(score, 1e-9))) as integer) as score_bucket
    from shopper_impressions(:cutoff, :as_of_change, 7)
    where
        place <= cardinality(cast(:propensities as double precision[]))
        and hashtextextended(visitor, 0) % :one_in = 0
),

streak_starts as (
    select
        *,
        lag(acted) over in_time
        or event_time > lag(event_time) over in_time + make_interval(hours => :pause_hours) as starts_streak
    from impressions
    window in_time as (partition by visitor, item_id order by event_time, request_id)
),

streaks as (
    select
        *,
        count(*) filter (where starts_streak) over (
            partition by visitor, item_id order by event_time, request_id
        ) as streak
    from streak_starts
),

cumulative as (
    select
        score_bucket,
        examined,
        source,
        acted,
        coalesce(
            sum(examined) over (
                partition by visitor, item_id, streak
                order by event_time, request_id
                rows between unbounded preceding and 1 preceding
            ),
            0
        ) as unclicked
    from streaks
)

select
    score_bucket,
    least(cast(round(unclicked) as integer), :max_unclicked) as unclicked,
    sum(examined) as examined,
    count(*) filter (where acted) as acted
from cumulative
where source = 'model'
group by 1, 2
order by 1, 2
