-- Grain: one batch. Its new columns are those that no earlier batch of its source had, if there was an earlier one.
update batches set
    read_rows = :read,
    columns = cast(:columns as text[]),
    new_columns = array(
        select given.name
        from unnest(cast(:columns as text[])) as given (name)
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
                    and given.name = any(earlier.columns)
            )
        order by given.name
    )
where batch_id = :batch_id
