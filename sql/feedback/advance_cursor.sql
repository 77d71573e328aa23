-- Grain: one segment of one endpoint's journal; a cursor never goes back.
insert into feedback_cursors (endpoint, segment, read_bytes)
values (:endpoint, :segment, :read_bytes)
on conflict (endpoint, segment) do update set
    read_bytes = greatest(feedback_cursors.read_bytes, excluded.read_bytes),
    updated_at = now()
