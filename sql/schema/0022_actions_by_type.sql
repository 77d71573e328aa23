-- The console looks for the few searches among the actions of a week.
drop index events_actions;
create index events_actions on events (event_time, event_type) where event_type <> 'impression';
