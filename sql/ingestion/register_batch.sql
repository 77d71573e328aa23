-- Grain: one landed batch. Writes: batches. Returns its number.
insert into batches (
    batch_id, source, origin, interval_start, interval_end, status, implies_items, implies_users, on_conflict, live,
    contract, read_rows
)
values (
    :batch_id, :source, :origin, :interval_start, :interval_end, 'landed', :implies_items, :implies_users,
    :on_conflict, :live, cast(:contract as jsonb), 0
)
returning number
