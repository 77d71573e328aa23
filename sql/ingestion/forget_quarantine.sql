-- Grain: one row in quarantine that tells of a forgotten user: the fact stays, what it said goes. A line that could
-- not be read is theirs if their id stands in it as a word.
update quarantine set
    raw = '{}',
    value = null,
    resolved_at = coalesce(resolved_at, now())
where
    raw ->> 'user_id' = any(cast(:user_ids as text[]))
    or (
        kind = 'lines'
        and exists (
            select 1
            from unnest(cast(:user_ids as text[])) as forgotten (user_id)
            where
                raw #>> '{}' ~ (
                    '(^|[^0-9A-Za-z_])'
                    || regexp_replace(forgotten.user_id, '([^0-9A-Za-z_])', '\\\1', 'g')
                    || '($|[^0-9A-Za-z_])'
                )
        )
    )
