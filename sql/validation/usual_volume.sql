-- Grain: one row, the usual events per day of a source's files: the median of those of :weekday among the latest 56, if
-- there are at least two, else of the latest eight. Null where files usually hold parts of days, which differ by the
-- hour. Reads: batches, batch_profiles.
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
        when percentile_cont(0.5) within group (order by hours) >= 20
            then
                coalesce(
                    case
                        when count(*) filter (where weekday = :weekday) >= 2
                            then
                                percentile_cont(0.5) within group (order by rows_per_day) filter (
                                    where weekday = :weekday
                                )
                    end,
                    percentile_cont(0.5) within group (order by rows_per_day) filter (where recency <= 8)
                )
    end as rows_per_day
from recent
