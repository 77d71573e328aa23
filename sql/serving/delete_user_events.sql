-- Grain: one event of a user, under any key.
delete from live_events
where user_id = :user_id
