-- Grain: one new version of a user: a staged user that differs from the version valid at that time.
-- Reads: staged_users. Writes: user_versions. Validity as in load_items.sql.
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
)

insert into user_versions (user_id, valid_from, batch, properties, source)
select
    dated.user_id,
    dated.effective_from as valid_from,
    cast(:batch as integer) as batch,
    dated.properties,
    :source as source
from dated
left join lateral (
    select *
    from user_versions
    where user_id = dated.user_id and valid_from <= dated.effective_from
    order by valid_from desc, batch desc
    limit 1
) as previous on true
where previous.user_id is null or previous.implied or dated.properties is distinct from previous.properties
-- The sort reads all rows before the first insert. Otherwise a sequential scan per row, which the planner chooses after
-- analyzing the empty table, would also scan the rows being inserted.
order by dated.row_number
on conflict (user_id, valid_from, batch) do nothing
