-- Grain: one held event that becomes visible, as the visible one with its id was removed.
-- Reads: vacated_events, unhidden_events, batches. Writes: held_events, events (in partitions that
-- create_held_months.sql made), restored_events. Of several, the last correction is visible
-- (on_conflict = 'replace'), else the one loaded first.
with candidates as (
    select
        held.*,
        batches.change_number,
        batches.on_conflict = 'replace' as corrects
    from held_events as held
    inner join batches on held.batch = batches.number
    where
        held.superseded_by is null
        and (
            held.held_id in (select held_id from unhidden_events)
            or exists (
                select 1 from vacated_events as vacated
                where
                    vacated.event_key = held.event_key
                    and vacated.source = held.source
                    and vacated.event_id = held.event_id
            )
        )
        and not exists (
            select 1 from events
            where
                events.event_key = held.event_key
                and events.source = held.source
                and events.event_id = held.event_id
                and events.event_time >= held.event_time - interval '31 days'
                and events.event_time <= held.event_time + interval '31 days'
        )
),

winners as (
    select distinct on (source, event_id) held_id
    from candidates
    order by
        source asc,
        event_id asc,
        corrects desc,
        case when corrects then -change_number else change_number end asc,
        case when corrects then -row_number else row_number end asc
),

moved as (
    delete from held_events
    where held_id in (select held_id from winners)
    returning *
),

inserted as (
    insert into events (
        event_id, event_key, user_id, session_id, item_id, event_type, event_time, query, quantity, price, request_id,
        position, properties, source, batch, row_number, content, ingested_at
    )
    select
        event_id,
        event_key,
        user_id,
        session_id,
        item_id,
        event_type,
        event_time,
        query,
        quantity,
        price,
        request_id,
        position,
        properties,
        source,
        batch,
        row_number,
        content,
        ingested_at
    from moved
)

insert into restored_events (batch, row_number, event_time, reason)
select
    batch,
    row_number,
    event_time,
    reason
from moved
