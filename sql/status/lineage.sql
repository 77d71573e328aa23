-- Grain: one recommended item of a request, with the model, the run and the snapshot behind it.
select *  -- noqa: AM04
from recommendation_lineage
where request_id = :request_id
order by position
