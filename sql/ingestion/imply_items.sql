-- Grain: one item per id that a batch's accepted events name and the catalogue lacks. Writes: items.
insert into items (item_id, source)
select distinct
    landed.item_id,
    :source as source
from landing_events as landed
where
    landed.batch_id = :batch_id
    and landed.item_id is not null
    and not exists (
        select 1
        from quarantine
        where
            quarantine.batch_id = landed.batch_id
            and quarantine.kind = 'events'
            and quarantine.row_number = landed.row_number
    )
on conflict (item_id) do nothing
