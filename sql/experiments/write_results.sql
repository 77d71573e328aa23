-- Replaces the results of the experiments.
insert into experiment_results (computed_at, as_of_change, results)
values (:computed_at, :as_of_change, cast(:results as jsonb))
on conflict (is_current) do update set
    computed_at = excluded.computed_at, as_of_change = excluded.as_of_change, results = excluded.results
