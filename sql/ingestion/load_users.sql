-- Grain: one version of a user: what a batch says of them, where that differs from what held at that time.
-- Reads: staged_users. Writes: user_versions. Times as in load_items.sql.
with latest as (
    select distinct on (user_id, valid_from) *
    from staged_users
    where broken_rules is null
    order by user_id asc, valid_from asc, row_number desc
),

dated as (
    select
        latest.*,
        coalesce(
            latest.valid_from,
            case
                when
                    exists (
                        select 1 from user_versions
                        where user_versions.user_id = latest.user_id and not user_versions.implied
                    )
                    then cast(:landed_at as timestamptz)
                else '-infinity'
            end
        ) as holds_from
    from latest
)

insert into user_versions (user_id, valid_from, batch, properties, source)
select
    dated.user_id,
    dated.holds_from as valid_from,
    cast(:batch as integer) as batch,
    dated.properties,
    :source as source
from dated
left join lateral (
    select *
    from user_versions
    where user_id = dated.user_id and valid_from <= dated.holds_from
    order by valid_from desc, batch desc
    limit 1
) as held on true
where held.user_id is null or held.implied or dated.properties is distinct from held.properties
-- Sorted, so that all is read before any of it is written: whoever reads this table through for each row, as the
-- planner does where it was analyzed when empty, would go through what is being written, too.
order by dated.row_number
on conflict (user_id, valid_from, batch) do nothing
