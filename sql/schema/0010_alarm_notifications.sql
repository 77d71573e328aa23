-- An alarm asks for two effects: its action (acted_at) and a notification (notified_at). Each is recorded after it is
-- done, so that a process that is killed in between repeats it.
alter table alarms add column notified_at timestamptz;
update alarms set notified_at = coalesce(acted_at, closed_at);
