-- Standard terms in place of this project's own: tables, columns, and stored decisions and rules.
alter table feature_parts rename to feature_partitions;
alter table flagged_visitors rename to bot_visitors;
alter table batches rename column loaded_number to change_number;
alter table batch_days rename column loaded_number to change_number;
alter table bot_visitors rename column loaded_number to change_number;
alter sequence loaded_numbers rename to change_numbers;
alter table snapshots rename column known to as_of_change;
alter table outcome_days rename column known to as_of_change;
alter table live_events rename column told_at to published_at;
alter view waiting_rows rename to open_quarantine;
alter view snapshot_batches rename column loaded_number to change_number;
alter view recommendation_lineage rename column known to as_of_change;
drop function shown_before(timestamptz, integer, integer);

alter table promotions drop constraint promotions_decision_check;
update promotions set decision = 'rollout'
where decision = 'trial';
alter table promotions add constraint promotions_decision_check check (
    decision in ('promoted', 'refused', 'failed', 'rolled_back', 'rollout', 'withdrawn', 'reconciled')
);

alter table alarms drop constraint alarms_action_check;
update alarms
set
    action = case action when 'tell' then 'alert' when 'hold' then 'hold_promotions' else action end,
    rule = case rule
        when 'loses to what is popular' then 'CTR below the popularity baseline'
        when 'loses to the version before' then 'CTR below the previous version'
        when 'click-through falls' then 'CTR regression'
        when 'other things are taken' then 'item drift'
        when 'other kinds of things are taken' then 'category drift'
        when 'other things are searched for' then 'query drift'
        when 'other events come' then 'event-type drift'
        when 'scores move' then 'score drift'
        when 'visitors are divided wrongly' then 'sample ratio mismatch'
        when 'feedback is broken' then 'quarantine rate of feedback'
        else rule
    end;
alter table alarms add constraint alarms_action_check check (
    action in ('alert', 'retrain', 'hold_promotions', 'roll_back')
);
