-- Grain: one landed user of a batch.
select
    row_number,
    user_id,
    properties,
    coalesce(pg_input_is_valid(properties, 'jsonb'), true) as properties_are_json
from landing_users
where batch_id = :batch_id
