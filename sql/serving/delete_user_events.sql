-- Deletes all shared events of a user, under every key.
delete from live_events
where user_id = :user_id
