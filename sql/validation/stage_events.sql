-- Grain: one landed event of a batch, typed (null where the text is invalid), with its id, the hash of its content and
-- the names of the rules it breaks (null if none). An event without an id gets the hash of its fields, without
-- properties, as id. Events of forgotten users, up to the time at which they were, are left out.
-- Reads: landed_events, pending_items, pending_users, item_versions, user_versions, forgotten_users.
create table staged_events as
with typed as (
    select
        row_number,
        user_id,
        session_id,
        item_id,
        event_type,
        query,
        request_id,
        coalesce(
            event_id,
            :source || '-' || md5(
                concat_ws(
                    chr(31),
                    coalesce(user_id, chr(30)),
                    coalesce(session_id, chr(30)),
                    coalesce(item_id, chr(30)),
                    coalesce(event_type, chr(30)),
                    coalesce(event_time, chr(30)),
                    coalesce(query, chr(30)),
                    coalesce(quantity, chr(30)),
                    coalesce(price, chr(30)),
                    coalesce(request_id, chr(30)),
                    coalesce(position, chr(30))
                )
            )
        ) as event_id,
        utc_time(event_time) as event_time,
        case when finite_number(quantity) is not null then cast(quantity as numeric) end as quantity,
        quantity is not null as has_quantity,
        case when finite_number(price) is not null then cast(price as numeric) end as price,
        price is not null as has_price,
        case when pg_input_is_valid(position, 'integer') then cast(position as integer) end as position,
        position is not null as has_position,
        case when pg_input_is_valid(properties, 'jsonb') then cast(properties as jsonb) end as properties,
        properties is not null as has_properties,
        has_infinite_number(properties) as has_infinite_number
    from landed_events
    -- `offset 0` keeps the planner from inlining this step and parsing each text again at every use.
    offset 0  -- noqa: AM09
),

checked as (
    select
        *,
        nullif(
            concat_ws(
                ' ',
                case
                    when
                        greatest(
                            octet_length(event_id),
                            octet_length(user_id),
                            octet_length(session_id),
                            octet_length(item_id)
                        ) > 2000
                        then 'ids_are_short'
                end,
                case when event_type is null then 'event_type_present' end,
                case
                    when event_type not in ('search', 'impression', 'view', 'add_to_cart', 'purchase')
                        then 'event_type_known'
                end,
                case when event_time is null then 'event_time_is_time' end,
                case when event_time > now() + interval '5 minutes' then 'event_time_not_in_future' end,
                case when event_time < :retention_start then 'event_time_is_kept' end,
                case when user_id is null and session_id is null then 'user_or_session_present' end,
                case when item_id is null and event_type <> 'search' then 'item_present' end,
                case when query is null and event_type = 'search' then 'query_present' end,
                case
                    when
                        item_id is not null
                        and not :implies_items
                        and not exists (
                            select 1 from item_versions
                            where item_versions.item_id = typed.item_id
                        )
                        and not exists (
                            select 1 from pending_items
                            where pending_items.item_id = typed.item_id
                        )
                        then 'item_known'
                end,
                case
                    when
                        user_id is not null
                        and not :implies_users
                        and not exists (
                            select 1 from user_versions
                            where user_versions.user_id = typed.user_id
                        )
                        and not exists (
                            select 1 from pending_users
                            where pending_users.user_id = typed.user_id
                        )
                        then 'user_known'
                end,
                case when has_quantity and quantity is null then 'quantity_is_number' end,
                case when quantity <= 0 then 'quantity_positive' end,
                case when has_price and price is null then 'price_is_number' end,
                case when price < 0 then 'price_not_negative' end,
                case when has_position and position is null then 'position_is_integer' end,
                case when has_properties and properties is null then 'properties_are_json' end,
                case when has_infinite_number then 'properties_are_finite' end
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
                    and coalesce(typed.event_time <= forgotten_users.forgotten_at, true)
            )
        )
)

select
    cast(row_number as integer) as row_number,
    event_id,
    event_key(:source, event_id) as event_key,
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
    coalesce(properties, '{}') as properties,
    case
        when broken_rules is null
            then
                event_content(
                    user_id, session_id, item_id, event_type, event_time, query, quantity, price, request_id,
                    position, properties
                )
    end as content,
    broken_rules
from checked
