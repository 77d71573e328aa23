-- Grain: one valid staged event that is not loaded: a duplicate or a conflict. With :replace, a conflict with a stored
-- event is loaded and replaces it. Reads: known_events, repeated_events.
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
