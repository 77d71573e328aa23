-- Grain: one source whose last delivery is older than its mapping promises, and of which nobody was told.
-- Reads: sources, batches.
select
    sources.source,
    sources.expected_every_hours,
    max(batches.finished_at) as last_loaded_at,
    max(batches.last_event) as last_event
from sources
left join batches on sources.source = batches.source and batches.status = 'loaded'
where sources.expected_every_hours is not null and sources.alerted_at is null
group by sources.source, sources.expected_every_hours, sources.updated_at
having
    coalesce(max(batches.finished_at), sources.updated_at)
    < now() - make_interval(secs => sources.expected_every_hours * 3600)
order by sources.source
