-- How a visitor is known: a user by the id, nobody's session by its own.
create function visitor_of(user_id text, session_id text) returns text language sql immutable parallel safe as $$
    select case when user_id is not null then 'u:' || user_id else 's:' || session_id end
$$;
