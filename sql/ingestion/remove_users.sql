-- Grain: one user of which a batch delivered a version, or what was one. Other deliveries equal the one before
-- them and change no other. Reads: user_versions, held_user_versions. Writes: affected_users.
create temporary table affected_users on commit drop as
select user_id
from user_versions
where batch = :batch
union
select user_id
from held_user_versions
where batch = :batch and was_version
