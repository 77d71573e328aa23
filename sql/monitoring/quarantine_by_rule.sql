-- Grain: one source and broken rule, with the number of unresolved rows in quarantine.
select
    batches.source,
    quarantine.rule,
    count(*) as waiting,
    min(quarantine.reason) as example
from quarantine
inner join batches on quarantine.batch_id = batches.batch_id
where quarantine.resolved_at is null
group by batches.source, quarantine.rule
order by waiting desc, batches.source asc, quarantine.rule asc
limit 20
