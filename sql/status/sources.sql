-- Grain: one source, with its last batch, its freshness and what waits in quarantine.
select *  -- noqa: AM04
from source_status
order by source
