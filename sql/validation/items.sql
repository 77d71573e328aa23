-- Grain: one landed item of a batch, with typed values (null where the text is not of the type).
select
    row_number,
    item_id,
    title,
    octet_length(item_id) <= 2000 as ids_are_short,
    price,
    properties,
    available_from,
    available_until,
    coalesce(price ~ '[0-9]' and pg_input_is_valid(price, 'numeric'), true) as price_is_number,
    case when pg_input_is_valid(price, 'numeric') then cast(price as numeric) end as price_value,
    coalesce(pg_input_is_valid(properties, 'jsonb'), true) as properties_are_json,
    coalesce(pg_input_is_valid(available_from, 'timestamptz'), true) as available_from_is_time,
    coalesce(pg_input_is_valid(available_until, 'timestamptz'), true) as available_until_is_time
from landing_items
where batch_id = :batch_id
