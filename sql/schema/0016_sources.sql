-- What sources promise and leave out, which are late, and quarantine by the fate of its batches.

alter table batches
add column ignored_rows bigint not null default 0,
add column alerted_at timestamptz;
update batches set alerted_at = now()
where warnings <> '{}';
comment on column batches.ignored_rows is 'Events of types that the mapping ignores; not among the rows read.';
comment on column batches.alerted_at is 'When its warnings were sent as an alert.';

create table sources (
    source text primary key,
    expected_every_hours double precision check (expected_every_hours > 0),
    first_seen_at timestamptz not null default now(),
    alerted_at timestamptz
);
comment on table sources is 'What the latest mapping of each source says of its deliveries.';
comment on column sources.source is 'Name of the source.';
comment on column sources.expected_every_hours is 'Hours within which the source delivers again; null for no promise.';
comment on column sources.first_seen_at is 'When a file of the source was first landed.';
comment on column sources.alerted_at is 'When the alert for its lateness was sent; null since its last delivery.';

drop view source_status;
create view source_status as
with open_rows as (
    select
        batches.source,
        count(*) filter (where batches.status not in ('rejected', 'retracted')) as quarantined_rows,
        count(*) filter (where batches.status = 'rejected') as rejected_rows,
        count(*) filter (where batches.status = 'retracted') as retracted_rows
    from open_quarantine
    inner join batches on open_quarantine.batch_id = batches.batch_id
    group by batches.source
),

by_source as (
    select
        source,
        count(*) filter (where status = 'loaded') as loaded_batches,
        count(*) filter (where status = 'rejected') as rejected_batches,
        (array_agg(batch_id order by landed_at desc))[1] as last_batch,
        (array_agg(status order by landed_at desc))[1] as last_status,
        (array_agg(origin order by landed_at desc))[1] as last_origin,
        max(landed_at) as last_landed_at,
        max(finished_at) filter (
            where status = 'loaded' and origin not like 'quarantine of %'
        ) as last_delivered_at,
        max(last_event) as last_event,
        sum(inserted_rows) as inserted_rows,
        sum(duplicate_rows) as duplicate_rows
    from batches
    where status <> 'change'
    group by source
)

select
    coalesce(by_source.source, sources.source) as source,
    coalesce(by_source.loaded_batches, 0) as loaded_batches,
    coalesce(by_source.rejected_batches, 0) as rejected_batches,
    by_source.last_batch,
    by_source.last_status,
    by_source.last_origin,
    by_source.last_landed_at,
    by_source.last_delivered_at,
    by_source.last_event,
    coalesce(by_source.inserted_rows, 0) as inserted_rows,
    coalesce(by_source.duplicate_rows, 0) as duplicate_rows,
    coalesce(open_rows.quarantined_rows, 0) as quarantined_rows,
    coalesce(open_rows.rejected_rows, 0) as rejected_rows,
    coalesce(open_rows.retracted_rows, 0) as retracted_rows,
    sources.expected_every_hours,
    coalesce(
        coalesce(by_source.last_delivered_at, sources.first_seen_at)
        < now() - make_interval(secs => sources.expected_every_hours * 3600),
        false
    ) as is_late
from by_source
full join sources on by_source.source = sources.source
left join open_rows on by_source.source = open_rows.source;

comment on view source_status is 'Freshness and quarantine of each source.';
comment on column source_status.source is 'Name of the source.';
comment on column source_status.loaded_batches is 'Number of loaded batches.';
comment on column source_status.rejected_batches is 'Number of rejected batches.';
comment on column source_status.last_batch is 'The latest batch.';
comment on column source_status.last_status is 'Status of the latest batch.';
comment on column source_status.last_origin is 'Origin of the latest batch.';
comment on column source_status.last_landed_at is 'When the latest batch was landed.';
comment on column source_status.last_delivered_at is 'When the latest batch that is no replay was loaded.';
comment on column source_status.last_event is 'Time of the latest valid event.';
comment on column source_status.inserted_rows is 'Rows inserted so far.';
comment on column source_status.duplicate_rows is 'Duplicates so far.';
comment on column source_status.quarantined_rows is
'Rows in quarantine that are not resolved, of batches that are or may be loaded.';
comment on column source_status.rejected_rows is 'Quarantined rows of rejected batches.';
comment on column source_status.retracted_rows is 'Quarantined rows of retracted batches.';
comment on column source_status.expected_every_hours is
'Hours within which the source delivers again; null for no promise.';
comment on column source_status.is_late is 'Whether the source has not delivered within these hours.';
