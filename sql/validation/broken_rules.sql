-- Grain: one rule that rows of a batch break, with the number of rows and the first of them. Reads: quarantine.
with ranked as (
    select
        *,
        row_number() over (
            partition by rule
            order by kind asc, row_number asc
        ) as place
    from quarantine
    where
        batch_id = :batch_id
        and kind = any(cast(:kinds as text[]))
)

select
    rule,
    count(*) as num_rows,
    min(reason) as reason,
    jsonb_agg(
        jsonb_build_object('row_number', row_number, 'value', value, 'raw', jsonb_strip_nulls(raw))
        order by place
    ) filter (where place <= :examples) as examples
from ranked
group by rule
order by num_rows desc, rule asc
