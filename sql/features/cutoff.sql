-- Grain: one row.
-- Inputs: events, batches. A partition of events is read only if all later ones have no such event.
-- Output: one second after the last action or search, the default cut-off of a snapshot; without any, the time at which
-- the catalog was last loaded.
select
    coalesce(
        (
            select event_time + interval '1 second'
            from events
            where (item_id is not null or event_type = 'search') and event_type <> 'impression'
            order by event_time desc
            limit 1
        ),
        (
            select max(coalesce(finished_at, landed_at))
            from batches
            where status = 'loaded'
        )
    ) as cutoff
