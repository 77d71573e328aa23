-- Grain: one landed event of a batch. Adds to what was sent what the rules look at: typed values (null where
-- the text is not of the type) and whether what it refers to exists, in the warehouse or landed beside it.
select
    landed.row_number,
    landed.event_id,
    landed.event_type,
    landed.event_time,
    landed.item_id,
    landed.user_id,
    landed.quantity,
    landed.price,
    landed.position,
    landed.query,
    landed.properties,
    case
        when landed.event_time ~ '^[0-9]{4}-[^B]*$' and pg_input_is_valid(landed.event_time, 'timestamptz')
            then cast(landed.event_time as timestamptz)
    end as event_time_utc,
    case
        when landed.event_time ~ '^[0-9]{4}-[^B]*$' and pg_input_is_valid(landed.event_time, 'timestamptz')
            then cast(landed.event_time as timestamptz) <= now() + interval '5 minutes'
    end as event_time_has_come,
    coalesce(landed.user_id, landed.session_id) as user_or_session,
    octet_length(concat_ws('', landed.event_id, landed.user_id, landed.session_id, landed.item_id)) <= 2000
        as ids_are_short,
    landed.item_id is not null or landed.event_type = 'search' as names_an_item,
    landed.query is not null or coalesce(landed.event_type, '') <> 'search' as names_a_query,
    landed.item_id is null or batch.implies_items
    or exists (
        select 1 from items
        where items.item_id = landed.item_id
    )
    or exists (
        select 1
        from landing_items
        inner join batches as beside on landing_items.batch_id = beside.batch_id
        where landing_items.item_id = landed.item_id and beside.status in ('landed', 'validated')
    )
        as item_is_known,
    landed.user_id is null or batch.implies_users
    or exists (
        select 1 from users
        where users.user_id = landed.user_id
    )
    or exists (
        select 1
        from landing_users
        inner join batches as beside on landing_users.batch_id = beside.batch_id
        where landing_users.user_id = landed.user_id and beside.status in ('landed', 'validated')
    )
        as user_is_known,
    coalesce(landed.quantity ~ '[0-9]' and pg_input_is_valid(landed.quantity, 'numeric'), true) as quantity_is_number,
    case when pg_input_is_valid(landed.quantity, 'numeric') then cast(landed.quantity as numeric) end
        as quantity_value,
    coalesce(landed.price ~ '[0-9]' and pg_input_is_valid(landed.price, 'numeric'), true) as price_is_number,
    case when pg_input_is_valid(landed.price, 'numeric') then cast(landed.price as numeric) end as price_value,
    coalesce(pg_input_is_valid(landed.position, 'integer'), true) as position_is_integer,
    coalesce(pg_input_is_valid(landed.properties, 'jsonb'), true) as properties_are_json
from landing_events as landed
inner join batches as batch on landed.batch_id = batch.batch_id
where landed.batch_id = :batch_id
