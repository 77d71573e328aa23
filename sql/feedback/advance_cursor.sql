-- Grain: one segment of one endpoint's event log.
-- Output: its row of feedback_cursors; a cursor never moves back.
insert into feedback_cursors (endpoint, segment, read_bytes)
values (:endpoint, :segment, :read_bytes)
on conflict (endpoint, segment) do update set
    read_bytes = greatest(feedback_cursors.read_bytes, excluded.read_bytes),
    updated_at = now()
