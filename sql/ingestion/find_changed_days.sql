-- Grain: one day (UTC) on which loading a batch changes events, with how many it adds.
create table changed_days as
select
    day,
    sum(events) as events
from (
    select
        cast(event_time at time zone 'UTC' as date) as day,
        count(*) as events
    from staged_events as staged
    where
        broken_rules is null
        and not exists (
            select 1 from skipped_events
            where skipped_events.row_number = staged.row_number
        )
    group by 1
    union all
    select
        cast(event_time at time zone 'UTC' as date) as day,
        0 as events
    from known_events
    where not is_same
    group by 1
) as changes
group by day
