-- Grain: one user per id that a batch's accepted events name and the warehouse lacks. Writes: users.
insert into users (user_id, source)
select distinct
    landed.user_id,
    :source as source
from landing_events as landed
where
    landed.batch_id = :batch_id
    and landed.user_id is not null
    and not exists (
        select 1
        from quarantine
        where
            quarantine.batch_id = landed.batch_id
            and quarantine.kind = 'events'
            and quarantine.row_number = landed.row_number
    )
on conflict (user_id) do nothing
