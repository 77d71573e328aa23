-- Grain: one visitor flagged as a bot on one day.
-- Output: its row of bot_visitors, unless it exists.
insert into bot_visitors (visitor, day, reason, change_number)
values (:visitor, :day, :reason, :change_number)
on conflict do nothing
