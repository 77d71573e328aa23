-- Grain: one day that a change touched.
insert into batch_days (day, loaded_number, events)
values (:day, :number, :events)
