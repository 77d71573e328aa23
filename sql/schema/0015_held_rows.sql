-- What loaded batches delivered and is not visible: it comes back when what hides it is retracted.
create table held_events (like events including defaults including constraints);
alter table held_events
add column held_id bigint generated always as identity primary key,
add column reason text not null check (reason in ('duplicate', 'conflict', 'replaced')),
add column superseded_by integer;
create index held_events_by_key on held_events (event_key);
create index held_events_by_batch on held_events (batch);
comment on table held_events is
'Valid events of loaded batches that are not in events: duplicates, conflicts, and those replaced by a correction.';
comment on column held_events.held_id is 'Number of the row.';
comment on column held_events.reason is 'Why it is not in events: duplicate, conflict or replaced.';
comment on column held_events.superseded_by is 'Number of the batch that replayed it; it stays hidden meanwhile.';

-- `dated` and `row_number` tell where a version begins once others are gone.
alter table item_versions add column dated boolean not null default false, add column row_number integer;
alter table user_versions add column dated boolean not null default false, add column row_number integer;
update item_versions set dated = true
from batches
where
    item_versions.batch = batches.number
    and (
        item_versions.valid_from not in ('-infinity', batches.landed_at)
        or (
            item_versions.valid_from = '-infinity'
            and exists (
                select 1
                from item_versions as earlier
                inner join batches as earlier_batch on earlier.batch = earlier_batch.number
                where
                    earlier.item_id = item_versions.item_id
                    and not earlier.implied
                    and earlier_batch.change_number < batches.change_number
            )
        )
    );
update user_versions set dated = true
from batches
where
    user_versions.batch = batches.number
    and (
        user_versions.valid_from not in ('-infinity', batches.landed_at)
        or (
            user_versions.valid_from = '-infinity'
            and exists (
                select 1
                from user_versions as earlier
                inner join batches as earlier_batch on earlier.batch = earlier_batch.number
                where
                    earlier.user_id = user_versions.user_id
                    and not earlier.implied
                    and earlier_batch.change_number < batches.change_number
            )
        )
    );
create table held_item_versions (like item_versions including defaults);
alter table held_item_versions add column was_version boolean not null default false;
create index item_versions_by_time on item_versions (valid_from);
create index held_item_versions_by_time on held_item_versions (valid_from);
comment on column held_item_versions.was_version is
'Whether it was a version until an equal, earlier one was loaded; snapshots as of earlier changes still use it.';
create index held_item_versions_by_item on held_item_versions (item_id);
create index held_item_versions_by_batch on held_item_versions (batch);
create table held_user_versions (like user_versions including defaults);
alter table held_user_versions add column was_version boolean not null default false;
create index user_versions_by_time on user_versions (valid_from);
create index held_user_versions_by_time on held_user_versions (valid_from);
comment on column held_user_versions.was_version is
'Whether it was a version until an equal, earlier one was loaded; snapshots as of earlier changes still use it.';
create index held_user_versions_by_user on held_user_versions (user_id);
create index held_user_versions_by_batch on held_user_versions (batch);
comment on table held_item_versions is
'Delivered items equal to the version before them: they become versions when that one is retracted.';
comment on table held_user_versions is
'Delivered users equal to the version before them: they become versions when that one is retracted.';

do $$
declare
    named record;
begin
    for named in
        select
            copies.held,
            attributes.attname as name,
            col_description(cast(copies.original as regclass), attributes.attnum) as comment
        from (
            values
            ('events', 'held_events'),
            ('item_versions', 'held_item_versions'),
            ('user_versions', 'held_user_versions')
        ) as copies (original, held)
        inner join pg_attribute as attributes on attributes.attrelid = cast(copies.original as regclass)
        where attributes.attnum > 0 and not attributes.attisdropped and attributes.attname not in ('dated', 'row_number')
    loop
        execute format('comment on column %I.%I is %L', named.held, named.name, named.comment);
    end loop;
    for named in
        select tables.name as held
        from (values ('item_versions'), ('user_versions'), ('held_item_versions'), ('held_user_versions')) as tables (name)
    loop
        execute format(
            'comment on column %I.dated is %L', named.held, 'Whether the source gave valid_from.'
        );
        execute format('comment on column %I.row_number is %L', named.held, 'Row of the file; null for implied ones.');
    end loop;
end
$$;
comment on column held_events.row_number is 'Row of the file.';

-- Of versions valid from the same time, the one that was loaded last holds; one that events imply holds only alone.
create or replace view items as
select distinct on (versions.item_id)
    versions.item_id,
    versions.title,
    versions.category_path,
    versions.brand,
    versions.price,
    versions.properties,
    versions.available_from,
    versions.available_until,
    versions.source,
    versions.updated_at
from item_versions as versions
left join batches on versions.batch = batches.number
where versions.valid_from <= now()
order by versions.item_id asc, versions.valid_from desc, versions.implied asc, batches.change_number desc nulls last;
create or replace view users as
select distinct on (versions.user_id)
    versions.user_id,
    versions.properties,
    versions.source,
    versions.updated_at
from user_versions as versions
left join batches on versions.batch = batches.number
where versions.valid_from <= now()
order by versions.user_id asc, versions.valid_from desc, versions.implied asc, batches.change_number desc nulls last;
