-- The console looks for the few searches among the actions of a week.
drop index events_actions;
create index events_actions on events (event_time, event_type) where event_type <> 'impression';

-- Some warehouses have it from a development version.
alter table experiment_results drop column if exists as_of_change;
