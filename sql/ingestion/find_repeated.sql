-- Grain: one valid staged event whose id another row of the batch has. The first is kept, or the last if :last_wins.
-- Reads: staged_events. Writes: repeated_events, the rows that are not kept.
with repeated_keys as (
    select event_key
    from staged_events
    where broken_rules is null
    group by event_key
    having count(*) > 1
),

numbered as (
    select
        staged.row_number,
        staged.content,
        row_number() over same_id as occurrence,
        first_value(staged.content) over same_id as first_content
    from staged_events as staged
    inner join repeated_keys on staged.event_key = repeated_keys.event_key
    where staged.broken_rules is null
    window
        same_id as (
            partition by staged.event_id
            order by case when :last_wins then -staged.row_number else staged.row_number end
        )
)

insert into repeated_events (row_number, is_same)
select
    row_number,
    content = first_content as is_same
from numbered
where occurrence > 1
