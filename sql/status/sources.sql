-- Grain: one source, with its last batch, freshness, whether it is late, and unresolved quarantine rows.
select
    *,  -- noqa: AM04
    coalesce(last_landed_at < now() - make_interval(secs => expected_every_hours * 3600), false) as is_late
from source_status
order by source
