-- Grain: one day (UTC) that a change touched. Writes: batch_days.
insert into batch_days (day, change_number, events)
values (:day, :number, :events)
