-- Grain: one user of which the batch delivers a value for a time before another delivery that is stored.
-- Reads: staged_users, user_versions, held_user_versions. Writes: affected_users.
create temporary table affected_users on commit drop as
with arriving as (
    select
        user_id,
        min(coalesce(valid_from, cast(:landed_at as timestamptz))) as since
    from staged_users
    where broken_rules is null
    group by user_id
),

-- Most batches are the latest of all: then no stored row is later than the earliest arriving one.
later as (
    select
        user_id,
        valid_from
    from user_versions
    where valid_from > (select min(since) from arriving)
    union all
    select
        user_id,
        valid_from
    from held_user_versions
    where valid_from > (select min(since) from arriving)
)

select distinct arriving.user_id
from arriving
inner join later on arriving.user_id = later.user_id and arriving.since < later.valid_from
