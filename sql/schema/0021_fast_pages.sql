-- For pages that answer within a second: results of experiments as of the last attribution, and an index of actions.

create table experiment_results (
    is_current boolean primary key default true check (is_current),
    computed_at timestamptz not null,
    results jsonb not null
);
comment on table experiment_results is 'Results of the experiments as of the last attribution: one row.';
comment on column experiment_results.is_current is 'Always true.';
comment on column experiment_results.computed_at is 'Time of the computation.';
comment on column experiment_results.results is 'Period; visitors and verdict by experiment; CTR by day and arm.';

-- The few actions among the many impressions of a period. By time: an index by user would slow ingestion three times as
-- much.
create index events_actions on events (event_time) where event_type <> 'impression';
drop index events_searches;
