-- An alarm asks for two things, each of which is noted only once it is done, so that what a kill leaves undone is done
-- the next time: its action (acted_at), and that somebody is told of it (told_at).
alter table alarms add column told_at timestamptz;
update alarms set told_at = coalesce(acted_at, closed_at);
