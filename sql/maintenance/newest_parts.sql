-- Grain: one day, with the file of its latest daily partition, which the next snapshot may reuse.
select distinct on (day) file
from feature_partitions
order by day asc, built_at desc
