-- Records that an action starts; returns its number.
insert into console_actions (person, action, subject, detail)
values (:person, :action, :subject, :detail)
returning action_id
