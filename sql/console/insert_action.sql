-- Records that an action starts; returns its number.
insert into console_actions (operator, action, subject, detail)
values (:operator, :action, :subject, :detail)
returning action_id
