-- Grain: one unresolved quarantined row (however many rules it broke), with its batch's settings and the number of
-- replays of that batch. Reads: quarantine, batches.
select distinct on (quarantine.batch_id, quarantine.kind, quarantine.row_number)
    quarantine.batch_id,
    quarantine.kind,
    quarantine.row_number,
    quarantine.raw,
    batches.source,
    batches.implies_items,
    batches.implies_users,
    batches.on_conflict,
    batches.contract,
    (
        select count(*) from batches as replayed
        where replayed.origin = 'quarantine of ' || batches.batch_id and replayed.status in ('loaded', 'retracted')
    ) as replays
from quarantine
inner join batches on quarantine.batch_id = batches.batch_id
where
    quarantine.resolved_at is null
    and quarantine.kind <> 'lines'
    and quarantine.rule <> 'user_not_forgotten'
    and batches.status = 'loaded'
    and (cast(:source as text) is null or batches.source = :source)
    and (cast(:batch_id as text) is null or batches.batch_id = :batch_id)
    and (cast(:rule as text) is null or quarantine.rule = :rule)
order by quarantine.batch_id asc, quarantine.kind asc, quarantine.row_number asc
