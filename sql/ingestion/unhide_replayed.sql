-- Grain: one held event that a retracted batch had replayed. Writes: held_events, unhidden_events.
with unhidden as (
    update held_events set superseded_by = null
    where superseded_by = :batch
    returning held_id
)

insert into unhidden_events (held_id)
select held_id from unhidden
