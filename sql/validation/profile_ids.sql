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

ids as (
    select
        'user' as kind,
        user_id as id,
        count(*) as events
    from events
    where user_id is not null
    group by user_id
    union all
    select
        'item' as kind,
        item_id as id,
        count(*) as events
    from events
    where item_id is not null
    group by item_id
),

known as (
    select
        ids.*,
        exists(
            select 1 from user_versions
            where user_versions.user_id = ids.id
        ) as is_user,
        exists(
            select 1 from item_versions
            where item_versions.item_id = ids.id
        ) as is_item
    from ids
),

shares as (
    select
        max(events) filter (where kind = 'user') / sum(events) filter (where kind = 'user') as top_user_share,
        avg(cast(not is_user as integer)) filter (where kind = 'user') as new_user_share,
        avg(cast(not is_item as integer)) filter (where kind = 'item') as new_item_share,
        count(*) filter (where kind = 'user') as num_users,
        count(*) filter (where kind = 'item') as num_items,
        avg(cast(is_item and not is_user as integer)) filter (where kind = 'user') as users_known_as_items,
        avg(cast(is_user and not is_item as integer)) filter (where kind = 'item') as items_known_as_users
    from known
)

select
    cast(top_user_share as double precision) as top_user_share,
    cast(new_user_share as double precision) as new_user_share,
    cast(new_item_share as double precision) as new_item_share,
    cast(num_users as double precision) / nullif(num_items, 0) as users_per_item,
    case
        when num_users > 0 and num_items > 0
            then cast(least(users_known_as_items, items_known_as_users) as double precision)
    end as swapped_id_share
from shares
