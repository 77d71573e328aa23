-- Grain: one row, the metrics of a staged batch of items. All but the first two count valid rows only.
-- Reads: staged_items.
select
    count(*) as rows,
    count(broken_rules) as bad_rows,
    count(*) filter (where is_valid and title is null) as null_title,
    count(*) filter (where is_valid and category_path is null) as null_category_path,
    count(*) filter (where is_valid and brand is null) as null_brand,
    count(*) filter (where is_valid and price is null) as null_price
from (
    select
        *,
        broken_rules is null as is_valid
    from staged_items
) as staged
