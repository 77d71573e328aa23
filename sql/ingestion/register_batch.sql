-- Grain: one batch. Called again for the same batch it replaces it.
insert into batches (
    batch_id, source, origin, interval_start, interval_end, status, implies_items, implies_users, read_rows
)
values (
    :batch_id, :source, :origin, :interval_start, :interval_end, 'landed', :implies_items, :implies_users, 0
)
