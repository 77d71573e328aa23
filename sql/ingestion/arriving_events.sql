-- Grain: one staged event to load: valid, and neither a duplicate nor a conflict.
-- Reads: staged_events, skipped_events.
create view arriving_events as
select *  -- noqa: AM04
from staged_events as staged
where
    broken_rules is null
    and not exists (
        select 1 from skipped_events
        where skipped_events.row_number = staged.row_number
    )
