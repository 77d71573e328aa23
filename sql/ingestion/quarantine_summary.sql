-- Grain: one rule that open quarantined rows of a source break. Reads: quarantine, batches.
select
    batches.source,
    batches.status as batch_status,
    quarantine.rule,
    min(quarantine.reason) as reason,
    count(*) as num_rows,
    count(distinct quarantine.batch_id) as num_batches,
    min(quarantine.quarantined_at) as oldest,
    min(quarantine.value) as example
from quarantine
inner join batches on quarantine.batch_id = batches.batch_id
where
    quarantine.resolved_at is null
    and (cast(:source as text) is null or batches.source = :source)
    and (cast(:batch_id as text) is null or batches.batch_id = :batch_id)
    and (cast(:rule as text) is null or quarantine.rule = :rule)
group by batches.source, batches.status, quarantine.rule
order by batches.source asc, num_rows desc, quarantine.rule asc
