-- Grain: one new version of a user: a staged user that differs from the version valid at that time, stored or staged.
-- Reads: staged_users. Writes: user_versions, and held_user_versions for staged users that do not differ. Validity is
-- that of load_items.sql.
with deduplicated as (
    select distinct on (user_id, valid_from) *
    from staged_users
    where broken_rules is null
    order by user_id asc, valid_from asc, row_number desc
),

dated as (
    select
        deduplicated.*,
        coalesce(
            deduplicated.valid_from,
            case
                when
                    exists (
                        select 1 from user_versions
                        where user_versions.user_id = deduplicated.user_id and not user_versions.implied
                    )
                    then cast(:landed_at as timestamptz)
                else '-infinity'
            end
        ) as effective_from
    from deduplicated
),

ordered as (
    select
        *,
        lag(effective_from) over by_time as staged_from,
        lag(properties) over by_time as staged_properties
    from dated
    window
        by_time as (
            partition by user_id
            order by effective_from asc, row_number asc
        )
),

changes as (
    select ordered.*
    from ordered
    left join lateral (
        select *
        from user_versions
        where user_id = ordered.user_id and valid_from <= ordered.effective_from
        order by
            valid_from desc,
            implied asc,
            (
                select change_number from batches
                where number = user_versions.batch
            ) desc nulls last
        limit 1
    ) as stored on true
    where
        case
            -- The staged version before this one is later than the stored one, or replaces it.
            when ordered.staged_from >= coalesce(stored.valid_from, '-infinity')
                then ordered.properties is distinct from ordered.staged_properties
            else
                stored.user_id is null
                or stored.implied
                or ordered.properties is distinct from stored.properties
        end
),

held as (
    insert into held_user_versions (user_id, valid_from, batch, properties, source, dated, row_number)
    select
        user_id,
        effective_from as valid_from,
        cast(:batch as integer) as batch,
        properties,
        :source as source,
        valid_from is not null as dated,
        row_number
    from ordered
    where not exists (
        select 1 from changes
        where changes.row_number = ordered.row_number
    )
)

insert into user_versions (user_id, valid_from, batch, properties, source, dated, row_number)
select
    user_id,
    effective_from as valid_from,
    cast(:batch as integer) as batch,
    properties,
    :source as source,
    valid_from is not null as dated,
    row_number
from changes
-- The sort reads all rows before the first insert. Otherwise a sequential scan per row, which the planner chooses after
-- analyzing the empty table, would also scan the rows being inserted.
order by row_number
on conflict (user_id, valid_from, batch) do nothing
