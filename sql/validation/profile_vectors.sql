-- Grain: one row, the metrics of a staged batch of item vectors. Reads: staged_vectors.
select
    count(*) as rows,
    count(broken_rules) as bad_rows
from staged_vectors
