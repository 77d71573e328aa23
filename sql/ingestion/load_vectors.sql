-- Grain: one vector of an item in a space and version; of several in a batch, the last one.
-- Reads: staged_vectors. Writes: item_vectors.
insert into item_vectors (item_id, space, version, batch, vector)
select distinct on (space, version, item_id)
    item_id,
    space,
    version,
    :batch as batch,
    vector
from staged_vectors
where broken_rules is null
order by space asc, version asc, item_id asc, row_number desc
