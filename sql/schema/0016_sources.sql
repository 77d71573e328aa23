-- What sources promise and leave out, and quarantine by the fate of its batches.

alter table batches
add column ignored_rows bigint not null default 0;
comment on column batches.ignored_rows is 'Events of types that the mapping ignores; not among the rows read.';

create table sources (
    source text primary key,
    expected_every_hours double precision check (expected_every_hours > 0),
    updated_at timestamptz not null default now()
);
comment on table sources is 'What the latest mapping of each source says of its deliveries.';
comment on column sources.source is 'Name of the source.';
comment on column sources.expected_every_hours is 'Hours within which the source delivers again; null for no promise.';
comment on column sources.updated_at is 'When the mapping was last read.';

create or replace view source_status as
with open_rows as (
    select
        batches.source,
        count(*) filter (where batches.status not in ('rejected', 'retracted')) as quarantined_rows,
        count(*) filter (where batches.status = 'rejected') as rejected_rows,
        count(*) filter (where batches.status = 'retracted') as retracted_rows
    from open_quarantine
    inner join batches on open_quarantine.batch_id = batches.batch_id
    group by batches.source
)

select
    batches.source,
    count(*) filter (where batches.status = 'loaded') as loaded_batches,
    count(*) filter (where batches.status = 'rejected') as rejected_batches,
    (array_agg(batches.batch_id order by batches.landed_at desc))[1] as last_batch,
    (array_agg(batches.status order by batches.landed_at desc))[1] as last_status,
    (array_agg(batches.origin order by batches.landed_at desc))[1] as last_origin,
    max(batches.landed_at) as last_landed_at,
    max(batches.last_event) as last_event,
    sum(batches.inserted_rows) as inserted_rows,
    sum(batches.duplicate_rows) as duplicate_rows,
    coalesce(max(open_rows.quarantined_rows), 0) as quarantined_rows,
    coalesce(max(open_rows.rejected_rows), 0) as rejected_rows,
    coalesce(max(open_rows.retracted_rows), 0) as retracted_rows,
    max(sources.expected_every_hours) as expected_every_hours
from batches
left join open_rows on batches.source = open_rows.source
left join sources on batches.source = sources.source
where batches.status <> 'change'
group by batches.source;
comment on column source_status.quarantined_rows is
'Rows in quarantine that are not resolved, of batches that are or may be loaded.';
comment on column source_status.rejected_rows is 'Quarantined rows of rejected batches.';
comment on column source_status.retracted_rows is 'Quarantined rows of retracted batches.';
comment on column source_status.expected_every_hours is
'Hours within which the source delivers again; null for no promise.';

alter table sources
add column alerted_at timestamptz;
comment on column sources.alerted_at is 'When somebody was told that the source is late; null since its last delivery.';

alter table batches
add column alerted_at timestamptz;
update batches set alerted_at = now()
where warnings <> '{}';
comment on column batches.alerted_at is 'When somebody was told of the warnings.';
