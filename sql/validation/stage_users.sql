-- Grain: one landed user of a batch, typed (null where the text is invalid), with the names of the rules it breaks
-- (null if none). Forgotten users are left out. Reads: landed_users, forgotten_users.
create table staged_users as
with typed as (
    select
        row_number,
        user_id,
        case when pg_input_is_valid(properties, 'jsonb') then cast(properties as jsonb) end as properties,
        properties is not null as has_properties,
        has_infinite_number(properties) as has_infinite_number,
        case when valid_from = '-infinity' then '-infinity' else utc_time(valid_from) end as valid_from,
        valid_from is not null as has_valid_from
    from landed_users
)

select
    cast(row_number as integer) as row_number,
    user_id,
    coalesce(properties, '{}') as properties,
    valid_from,
    nullif(
        concat_ws(
            ' ',
            case when user_id is null then 'user_id_present' end,
            case when octet_length(user_id) > 2000 then 'ids_are_short' end,
            case when has_properties and properties is null then 'properties_are_json' end,
            case when has_infinite_number then 'properties_are_finite' end,
            case when has_valid_from and valid_from is null then 'valid_from_is_time' end
        ),
        ''
    ) as broken_rules
from typed
where
    not (
        :any_forgotten
        and exists (
            select 1 from forgotten_users
            where
                forgotten_users.user_digest = user_digest(typed.user_id)
                and coalesce(typed.valid_from, forgotten_users.forgotten_at) <= forgotten_users.forgotten_at
        )
    )
