-- Grain: one file that the next snapshot may be made of: what was built last of each day.
select distinct on (day) file
from feature_parts
order by day asc, built_at desc
