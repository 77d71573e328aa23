-- Grain: one batch. Writes: batches. `new_columns` are the columns that no other batch of the source has; empty for the
-- first batch.
update batches set
    read_rows = :read,
    ignored_rows = :ignored,
    columns = cast(:columns as text[]),
    kinds = cast(:kinds as text[]),
    landing_warnings = cast(:warnings as text[]),
    new_columns = array(
        select incoming.name
        from unnest(cast(:columns as text[])) as incoming (name)
        where
            exists (
                select 1 from batches as earlier
                where earlier.source = :source and earlier.columns <> '{}' and earlier.batch_id <> :batch_id
            )
            and not exists (
                select 1 from batches as earlier
                where
                    earlier.source = :source
                    and earlier.batch_id <> :batch_id
                    and incoming.name = any(earlier.columns)
            )
        order by incoming.name
    )
where batch_id = :batch_id
