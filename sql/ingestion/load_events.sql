-- Grain: one event per event_id. Reads: a validated batch's landing_events. Writes: events; the first one wins.
with accepted as (
    select landed.*
    from landing_events as landed
    where
        landed.batch_id = :batch_id
        and not exists (
            select 1
            from quarantine
            where
                quarantine.batch_id = landed.batch_id
                and quarantine.kind = 'events'
                and quarantine.row_number = landed.row_number
        )
)

insert into events (
    event_id, user_id, session_id, item_id, event_type, event_time, query, quantity, price, request_id,
    position, properties, source, batch_id
)
select
    event_id,
    user_id,
    session_id,
    item_id,
    event_type,
    cast(event_time as timestamptz) as event_time,
    query,
    cast(quantity as numeric) as quantity,
    cast(price as numeric) as price,
    request_id,
    cast(position as integer) as position,
    coalesce(cast(properties as jsonb), '{}') as properties,
    :source as source,
    batch_id
from accepted
order by row_number
on conflict (event_id) do nothing
