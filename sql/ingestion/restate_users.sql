-- Decides anew which delivered users are versions: those that differ from the delivery before them in time. For the
-- users of affected_users. Without a time of its own, the first delivery of all is valid from -infinity, a later one
-- from its landing. Reads: affected_users, batches. Writes: user_versions, held_user_versions.
create temporary table restated_users on commit drop as
with deliveries as (
    select
        *,
        true as was_version
    from user_versions
    where user_id in (select user_id from affected_users) and not implied
    union all
    select *
    from held_user_versions
    where user_id in (select user_id from affected_users)
),

numbered as (
    select
        deliveries.*,
        batches.landed_at,
        -- The batch that is being loaded has no number yet; rows of the first warehouse have no batch.
        case when deliveries.batch = 0 then 0 else coalesce(batches.change_number, 2147483647) end as change_number
    from deliveries
    left join batches on deliveries.batch = batches.number
),

dated_anew as (
    select
        user_id,
        case
            when dated then valid_from
            when change_number = min(change_number) over (partition by user_id) then '-infinity'
            else landed_at
        end as valid_from,
        batch,
        properties,
        source,
        updated_at,
        dated,
        row_number,
        was_version,
        change_number,
        cast(row(properties) as text) as content
    from numbered
)

select
    *,
    row_number() over in_time = 1 or lag(content) over in_time <> content as is_change
from dated_anew
window in_time as (partition by user_id order by valid_from, change_number, row_number);

delete from user_versions
where user_id in (select user_id from affected_users) and not implied;
delete from held_user_versions
where user_id in (select user_id from affected_users);

insert into user_versions (
    user_id, valid_from, batch, properties, source, updated_at, dated, row_number
)
select
    user_id,
    valid_from,
    batch,
    properties,
    source,
    updated_at,
    dated,
    row_number
from restated_users
where is_change
on conflict (user_id, valid_from, batch) do nothing;

insert into held_user_versions (
    user_id, valid_from, batch, properties, source, updated_at, dated, row_number, was_version
)
select
    user_id,
    valid_from,
    batch,
    properties,
    source,
    updated_at,
    dated,
    row_number,
    was_version
from restated_users
where not is_change;

drop table restated_users, affected_users;
