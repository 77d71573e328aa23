-- Grain: one source, with its last batch, freshness, whether it is late, and unresolved quarantine rows.
select *  -- noqa: AM04
from source_status
order by source
