-- Grain: one row, whether the warehouse has changes that no snapshot without an explicit cutoff includes: loaded rows,
-- or removed ones.
select exists(
    select 1
    from batches
    where
        change_number > (
            select coalesce(max(as_of_change), 0)
            from snapshots
            where not has_explicit_cutoff
        )
        and (
            (status = 'loaded' and inserted_rows > 0)
            or (status = 'change' and source in ('retract', 'forget'))
        )
) as is_unbuilt
