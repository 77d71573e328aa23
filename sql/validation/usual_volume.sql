-- Grain: one row, the usual events per day of a source's files, and how many events of :main_day are stored.
-- Usual is the median of the files of the same weekday among the latest 56, if there are at least two. Else it is half
-- the median of the latest eight files, as the day may be a quiet one. Null with fewer than three files, and where
-- files usually hold parts of days, which differ by the hour. Reads: batches, batch_profiles, batch_days.
with recent as (
    select
        volume.value as rows_per_day,
        weekday.value as weekday,
        hours.value as hours,
        row_number() over (order by batches.change_number desc) as recency
    from batches
    inner join batch_profiles as volume
        on batches.batch_id = volume.batch_id and volume.kind = 'events' and volume.metric = 'rows_per_day'
    left join batch_profiles as weekday
        on batches.batch_id = weekday.batch_id and weekday.kind = 'events' and weekday.metric = 'weekday'
    left join batch_profiles as hours
        on batches.batch_id = hours.batch_id and hours.kind = 'events' and hours.metric = 'hours'
    where
        batches.source = :source
        and batches.status = 'loaded'
        and batches.batch_id <> :batch_id
        and batches.interval_start is null
        and volume.value is not null
    order by batches.change_number desc
    limit 56
)

select
    case
        when count(*) < 3 or percentile_cont(0.5) within group (order by hours) < 20 then null
        when count(*) filter (where weekday = :weekday) >= 2
            then percentile_cont(0.5) within group (order by rows_per_day) filter (where weekday = :weekday)
        else 0.5 * percentile_cont(0.5) within group (order by rows_per_day) filter (where recency <= 8)
    end as rows_per_day,
    (
        select coalesce(sum(batch_days.events), 0)
        from batch_days
        inner join batches on batch_days.change_number = batches.change_number
        where batch_days.day = date '1970-01-01' + cast(:main_day as integer) and batches.source = :source
    ) as stored
from recent
