-- Grain: one user of which the batch delivers a value for a time before another delivery that is stored.
-- Reads: staged_users, user_versions, held_user_versions. Writes: affected_users.
create temporary table affected_users on commit drop as
with stored as (
    select
        user_id,
        valid_from
    from user_versions
    union all
    select
        user_id,
        valid_from
    from held_user_versions
)

select distinct staged.user_id
from staged_users as staged
inner join stored on staged.user_id = stored.user_id and staged.valid_from < stored.valid_from
where staged.broken_rules is null
