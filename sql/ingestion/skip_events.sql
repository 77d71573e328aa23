-- Grain: one good staged event that is not loaded: known or repeated. With :replace, one that says something else
-- than the warehouse is loaded in place of what is there.
create table skipped_events as
select
    row_number,
    bool_and(is_same) as is_same
from (
    select
        row_number,
        is_same
    from known_events
    where is_same or not :replace
    union all
    select
        row_number,
        is_same
    from repeated_events
) as skipped
group by row_number
