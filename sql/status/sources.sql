-- Grain: one source, with its last batch, freshness and unresolved quarantine rows.
select *  -- noqa: AM04
from source_status
order by source
