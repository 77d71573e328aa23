-- Grain: one landed user of a batch.
select
    row_number,
    user_id,
    octet_length(user_id) <= 2000 as ids_are_short,
    properties,
    coalesce(pg_input_is_valid(properties, 'jsonb'), true) as properties_are_json
from landing_users
where batch_id = :batch_id
