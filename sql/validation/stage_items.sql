-- Grain: one landed item of a batch, typed (null where the text is invalid), with the names of the rules it breaks
-- (null if none). Reads: landed_items.
create table staged_items as
with typed as (
    select
        row_number,
        item_id,
        title,
        category_path,
        brand,
        case when finite_number(price) is not null then cast(price as numeric) end as price,
        price is not null as has_price,
        case when pg_input_is_valid(properties, 'jsonb') then cast(properties as jsonb) end as properties,
        properties is not null as has_properties,
        has_infinite_number(properties) as has_infinite_number,
        utc_time(available_from) as available_from,
        available_from is not null as has_available_from,
        utc_time(available_until) as available_until,
        available_until is not null as has_available_until,
        case when valid_from = '-infinity' then '-infinity' else utc_time(valid_from) end as valid_from,
        valid_from is not null as has_valid_from
    from landed_items
)

select
    cast(row_number as integer) as row_number,
    item_id,
    title,
    category_path,
    brand,
    price,
    coalesce(properties, '{}') as properties,
    available_from,
    available_until,
    valid_from,
    nullif(
        concat_ws(
            ' ',
            case when item_id is null then 'item_id_present' end,
            case when octet_length(item_id) > 2000 then 'ids_are_short' end,
            case when has_price and price is null then 'price_is_number' end,
            case when price < 0 then 'price_not_negative' end,
            case when has_properties and properties is null then 'properties_are_json' end,
            case when has_infinite_number then 'properties_are_finite' end,
            case when has_available_from and available_from is null then 'available_from_is_time' end,
            case when has_available_until and available_until is null then 'available_until_is_time' end,
            case when has_valid_from and valid_from is null then 'valid_from_is_time' end
        ),
        ''
    ) as broken_rules
from typed
