-- Grain: one item of which the batch delivers a value for a time before another delivery that is stored.
-- Reads: staged_items, item_versions, held_item_versions. Writes: affected_items.
create temporary table affected_items on commit drop as
with arriving as (
    select
        item_id,
        min(coalesce(valid_from, cast(:landed_at as timestamptz))) as since
    from staged_items
    where broken_rules is null
    group by item_id
),

-- Most batches are the latest of all: then no stored row is later than the earliest arriving one.
later as (
    select
        item_id,
        valid_from
    from item_versions
    where valid_from > (select min(since) from arriving)
    union all
    select
        item_id,
        valid_from
    from held_item_versions
    where valid_from > (select min(since) from arriving)
)

select distinct arriving.item_id
from arriving
inner join later on arriving.item_id = later.item_id and arriving.since < later.valid_from
