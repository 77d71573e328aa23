-- Grain: one rule that rows of a batch break, with the number of rows and the first of them. Reads: quarantine.
-- The rows are ranked by their keys alone: their content may be large.
with ranked as (
    select
        kind,
        row_number,
        rule,
        reason,
        row_number() over (
            partition by rule
            order by kind asc, row_number asc
        ) as place
    from quarantine
    where batch_id = :batch_id and kind = any(cast(:kinds as text[]))
),

examples as (
    select
        ranked.rule,
        jsonb_agg(
            jsonb_build_object(
                'row_number', quarantine.row_number,
                'value', quarantine.value,
                'raw', jsonb_strip_nulls(quarantine.raw)
            )
            order by ranked.place
        ) as first_rows
    from ranked
    inner join quarantine
        on
            quarantine.batch_id = :batch_id
            and ranked.kind = quarantine.kind
            and ranked.row_number = quarantine.row_number
            and ranked.rule = quarantine.rule
    where ranked.place <= :examples
    group by ranked.rule
),

counted as (
    select
        rule,
        count(*) as num_rows,
        min(reason) as reason
    from ranked
    group by rule
)

select
    counted.rule,
    counted.num_rows,
    counted.reason,
    examples.first_rows as examples
from counted
inner join examples on counted.rule = examples.rule
order by counted.num_rows desc, counted.rule asc
