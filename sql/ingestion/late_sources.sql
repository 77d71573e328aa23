-- Grain: one late source for which no alert was sent since its last delivery. Reads: source_status, sources.
select
    source_status.source,
    source_status.expected_every_hours,
    source_status.last_delivered_at
from source_status
inner join sources on source_status.source = sources.source
where source_status.is_late and sources.alerted_at is null
order by source_status.source
