-- Grain: one good staged event whose id another row of the batch has: the first of them counts, or the last one
-- where the source corrects itself (:last_wins).
create table repeated_events as
with numbered as (
    select
        row_number,
        content,
        row_number() over same_id as place,
        first_value(content) over same_id as first_content
    from staged_events
    where broken_rules is null
    window
        same_id as (partition by event_key, event_id order by case when :last_wins then -row_number else row_number end)
)

select
    row_number,
    content = first_content as is_same
from numbered
where place > 1
