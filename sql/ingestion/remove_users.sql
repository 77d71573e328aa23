-- Grain: one user of which a batch delivered a version. A delivery equal to the one before it changes no other.
-- Reads: user_versions. Writes: affected_users.
create temporary table affected_users on commit drop as
select distinct user_id
from user_versions
where batch = :batch
