-- Grain: one visitor who behaved like a machine on a day.
insert into flagged_visitors (visitor, day, reason, loaded_number)
values (:visitor, :day, :reason, :loaded_number)
on conflict do nothing
