-- Grain: one recommended item of a request, with its model version, run and snapshot.
select *  -- noqa: AM04
from recommendation_lineage
where request_id = :request_id
order by position
