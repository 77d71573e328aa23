-- Grain: one row, how the valid events of a staged batch spread over users and items, from one in :step of them: the
-- largest share of one user, users per item, the shares of users and items that no earlier batch had, and the smaller
-- of two shares: users whose id is known only as an item id, items whose id is known only as a user id.
-- Reads: staged_events, item_versions, user_versions.
with events as materialized (
    select
        user_id,
        item_id
    from staged_events
    where broken_rules is null and row_number % :step = 0
),

by_user as (
    select
        user_id,
        count(*) as events
    from events
    where user_id is not null
    group by user_id
),

users as (
    select
        count(*) as num_users,
        max(events) / sum(events) as top_share,
        avg(
            cast(not exists (
                select 1 from user_versions
                where user_versions.user_id = by_user.user_id
            ) as integer)
        ) as new_share,
        avg(
            cast(
                exists (
                    select 1 from item_versions
                    where item_versions.item_id = by_user.user_id
                )
                and not exists (
                    select 1 from user_versions
                    where user_versions.user_id = by_user.user_id
                )
                as integer
            )
        ) as items_share
    from by_user
),

items as (
    select
        count(*) as num_items,
        avg(
            cast(not exists (
                select 1 from item_versions
                where item_versions.item_id = ids.item_id
            ) as integer)
        ) as new_share,
        avg(
            cast(
                exists (
                    select 1 from user_versions
                    where user_versions.user_id = ids.item_id
                )
                and not exists (
                    select 1 from item_versions
                    where item_versions.item_id = ids.item_id
                )
                as integer
            )
        ) as users_share
    from (
        select distinct item_id from events
        where item_id is not null
    ) as ids
)

select
    cast(users.top_share as double precision) as top_user_share,
    cast(users.new_share as double precision) as new_user_share,
    cast(items.new_share as double precision) as new_item_share,
    cast(users.num_users / nullif(cast(items.num_items as double precision), 0) as double precision) as users_per_item,
    case
        when users.num_users > 0 and items.num_items > 0
            then cast(least(users.items_share, items.users_share) as double precision)
    end as swapped_id_share
from users
cross join items
