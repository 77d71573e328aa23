-- Records how an action ended.
update console_actions set outcome = :outcome
where action_id = :action_id
