-- Grain: one row, the usual events per day of a source's files, their lower limit, and how many events of :main_day are
-- stored. Only files with events in at least twelve hours of the day count.
-- Usual is the median of the files of the same weekday among the latest 56, if there are at least two. Else it is the
-- median of the latest eight, and the lower limit half of it, as the day may be a quiet one. Null with fewer than three
-- such files, and for sources whose files usually cover less. Reads: batches, batch_profiles, batch_days.
with recent as (
    select
        volume.value as rows_per_day,
        weekday.value as weekday,
        hours.value as hours,
        row_number() over (order by batches.change_number desc) as recency
    from batches
    inner join batch_profiles as volume
        on batches.batch_id = volume.batch_id and volume.kind = 'events' and volume.metric = 'rows_per_day'
    inner join batch_profiles as hours
        on batches.batch_id = hours.batch_id and hours.kind = 'events' and hours.metric = 'hours'
    left join batch_profiles as weekday
        on batches.batch_id = weekday.batch_id and weekday.kind = 'events' and weekday.metric = 'weekday'
    where
        batches.source = :source
        and batches.status = 'loaded'
        and batches.batch_id <> :batch_id
        and batches.interval_start is null
        and volume.value > 0
    order by batches.change_number desc
    limit 56
),

medians as (
    select
        count(*) filter (where hours >= 12) as files,
        2 * count(*) filter (where hours >= 12) > count(*) as are_whole_days,
        count(*) filter (where hours >= 12 and weekday = :weekday) as same_weekday,
        percentile_cont(0.5) within group (order by rows_per_day) filter (
            where hours >= 12 and weekday = :weekday
        ) as of_weekday,
        percentile_cont(0.5) within group (order by rows_per_day) filter (
            where hours >= 12 and recency <= 8
        ) as of_latest
    from recent
)

select
    case when files >= 3 and are_whole_days then case when same_weekday >= 2 then of_weekday else of_latest end end
        as usual,
    case
        when files >= 3 and are_whole_days then case when same_weekday >= 2 then of_weekday else 0.5 * of_latest end
    end as lower_limit,
    (
        select coalesce(sum(batch_days.events), 0)
        from batch_days
        inner join batches on batch_days.change_number = batches.change_number
        where
            batch_days.day = date '1970-01-01' + cast(:main_day as integer)
            and batches.source = :source
            and batches.status = 'loaded'
    ) as stored
from medians
