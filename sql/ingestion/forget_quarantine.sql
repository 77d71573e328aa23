-- Grain: one quarantined row of a forgotten user. Writes: quarantine; clears the content, keeps rule and row number.
-- An unparseable line belongs to a user if it contains the user id as a word.
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
