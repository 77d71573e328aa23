-- Grain: one open quarantined row with all rules that it breaks. Reads: quarantine, batches.
select
    quarantine.batch_id,
    batches.origin,
    quarantine.kind,
    quarantine.row_number,
    array_agg(quarantine.rule order by quarantine.rule) as rules,
    array_agg(quarantine.reason order by quarantine.rule) as reasons,
    (array_agg(quarantine.raw))[1] as raw
from quarantine
inner join batches on quarantine.batch_id = batches.batch_id
where
    quarantine.resolved_at is null
    and (cast(:source as text) is null or batches.source = :source)
    and (cast(:batch_id as text) is null or batches.batch_id = :batch_id)
    and (
        not :only_replayable
        or (
            quarantine.kind <> 'lines'
            and quarantine.rule <> 'user_not_forgotten'
            and batches.status = 'loaded'
        )
    )
group by quarantine.batch_id, batches.origin, quarantine.kind, quarantine.row_number
having cast(:rule as text) is null or :rule = any(array_agg(quarantine.rule))
order by quarantine.batch_id asc, quarantine.kind asc, quarantine.row_number asc
limit :row_limit
