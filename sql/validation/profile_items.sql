-- Grain: one row. What a staged batch of items looks like in numbers; of good rows but for the first two.
select
    count(*) as rows,
    count(broken_rules) as bad_rows,
    count(*) filter (where good and title is null) as null_title,
    count(*) filter (where good and category_path is null) as null_category_path,
    count(*) filter (where good and brand is null) as null_brand,
    count(*) filter (where good and price is null) as null_price
from (
    select
        *,
        broken_rules is null as good
    from staged_items
) as staged
