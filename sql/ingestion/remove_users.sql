-- Removes the users that a batch delivered. Writes: user_versions, held_user_versions, and affected_users: their ids.
create temporary table affected_users on commit drop as
select user_id
from user_versions
where batch = :batch
union
select user_id
from held_user_versions
where batch = :batch
