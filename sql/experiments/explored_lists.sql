-- Grain: one impression of a list of recommendations whose positions exploration filled.
-- The lists are a sample, by digest, of at most :max_lists of those between :begins and :ends that a model made for a
-- user from nothing but the user's recorded actions. Lists with a pinned item or a missing impression are left out.
-- Inputs: events, shopper_outcomes (without bots and internal traffic). The HTTP API refuses impressions of lists whose
-- ids begin with r-. Files can have them, so that lists with values outside the limits are left out.
-- Output: the list with its user, time and exploration, and the position, rank and item of the impression, and whether
-- an action has the list's id and the item.
with sampled as (
    select
        shopper_outcomes.request_id,
        shopper_outcomes.shown_at,
        first_impressions.user_id,
        finite_number(first_impressions.properties ->> 'explored_share') as explored_share,
        finite_number(first_impressions.properties ->> 'candidates') as candidates
    from shopper_outcomes
    inner join events as first_impressions on shopper_outcomes.request_id = first_impressions.request_id
    where
        shopper_outcomes.day between cast(cast(:begins as timestamptz) at time zone 'UTC' as date)
        and cast(cast(:ends as timestamptz) at time zone 'UTC' as date)
        and shopper_outcomes.shown_at >= :begins
        and shopper_outcomes.shown_at < :ends
        and shopper_outcomes.list = 'recommendations'
        and starts_with(shopper_outcomes.request_id, 'r-')
        and first_impressions.event_type = 'impression'
        and first_impressions.position = 1
        and first_impressions.user_id is not null
        and first_impressions.properties ->> 'source' = 'model'
        and first_impressions.properties ->> 'constrained' is null
        and finite_number(first_impressions.properties ->> 'explored_share') between 0.001 and 0.5
        and finite_number(first_impressions.properties ->> 'candidates') between 1 and 500
    order by md5(shopper_outcomes.request_id), shopper_outcomes.request_id
    limit :max_lists
),

shown as (
    select
        sampled.request_id,
        sampled.user_id,
        sampled.shown_at,
        sampled.explored_share,
        sampled.candidates,
        impressions.position,
        impressions.item_id,
        finite_number(impressions.properties ->> 'rank') as item_rank
    from sampled
    inner join events as impressions on sampled.request_id = impressions.request_id
    where impressions.event_type = 'impression'
),

complete as (
    select request_id
    from shown
    group by request_id
    having
        count(distinct position) = count(*)
        and count(distinct item_rank) = count(*)
        and count(item_id) = count(*)
        and min(position) = 1
        and max(position) = count(*)
        and min(item_rank) >= 1
        and max(item_rank) <= min(candidates)
        and count(*) <= min(candidates)
)

select
    shown.request_id,
    shown.user_id,
    shown.shown_at,
    shown.explored_share,
    shown.position,
    shown.item_id,
    cast(shown.candidates as integer) as candidates,
    cast(shown.item_rank as integer) as item_rank,
    exists(
        select 1
        from events as actions
        where
            actions.request_id = shown.request_id
            and actions.item_id = shown.item_id
            and actions.event_type in ('view', 'add_to_cart', 'purchase')
    ) as clicked
from shown
inner join complete on shown.request_id = complete.request_id
order by shown.request_id, shown.position
