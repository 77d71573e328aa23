-- Grain: one row in quarantine that tells of a forgotten user: the fact stays, what it said goes.
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
            where position(forgotten.user_id in raw #>> '{}') > 0
        )
    )
