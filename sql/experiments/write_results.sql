-- Replaces the results of the experiments.
insert into experiment_results (computed_at, results)
values (:computed_at, cast(:results as jsonb))
on conflict (is_current) do update set computed_at = excluded.computed_at, results = excluded.results
