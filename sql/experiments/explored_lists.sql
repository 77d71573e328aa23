-- Grain: one impression of a list of recommendations that exploration filled, without those that kept their position.
-- The lists are a sample of at most :max_lists, the same at each call, of those between :begins and :ends that a model
-- made for a user from nothing but the user's actions.
-- Inputs: events, shopper_outcomes (without bots and internal traffic).
-- Output: the list with its user, time and exploration, and the position, rank and item of the impression, and whether
-- it was clicked.
with lists as (
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
        and first_impressions.event_type = 'impression'
        and first_impressions.position = 1
        and first_impressions.user_id is not null
        and first_impressions.properties ->> 'source' = 'model'
        and first_impressions.properties ->> 'constrained' is null
        and finite_number(first_impressions.properties ->> 'explored_share') > 0
        and finite_number(first_impressions.properties ->> 'candidates') >= 1
    order by md5(shopper_outcomes.request_id), shopper_outcomes.request_id
    limit :max_lists
)

select
    lists.request_id,
    lists.user_id,
    lists.shown_at,
    lists.explored_share,
    impressions.position,
    impressions.item_id,
    cast(lists.candidates as integer) as candidates,
    cast(finite_number(impressions.properties ->> 'rank') as integer) as item_rank,
    exists(
        select 1
        from events as actions
        where
            actions.request_id = impressions.request_id
            and actions.item_id = impressions.item_id
            and actions.event_type in ('view', 'add_to_cart', 'purchase')
    ) as clicked
from lists
inner join events as impressions on lists.request_id = impressions.request_id
where
    impressions.event_type = 'impression'
    and finite_number(impressions.properties ->> 'rank') between 1 and lists.candidates
order by lists.request_id, impressions.position
