-- Audit record of the console, and pauses of rollouts.

create table console_actions (
    action_id bigint generated always as identity primary key,
    started_at timestamptz not null default now(),
    operator text not null,
    action text not null,
    subject text not null,
    detail text not null,
    outcome text
);
comment on table console_actions is 'Audit record: one action of an operator in the console.';
comment on column console_actions.action_id is 'Number of the action.';
comment on column console_actions.started_at is 'Start of the action.';
comment on column console_actions.operator is 'Name that the operator signed in with.';
comment on column console_actions.action is 'promote, roll_back, pause_rollout, resume_rollout or change_rules.';
comment on column console_actions.subject is 'What it was done to: a model version, or the rules.';
comment on column console_actions.detail is 'Reason; for rules followed by the new rules as JSON.';
comment on column console_actions.outcome is 'How it ended; null while it runs, or if the console was killed.';

-- The searches of a week among all impressions of it.
create index events_searches on events (event_time) where event_type = 'search';

alter table promotions drop constraint promotions_decision_check;
alter table promotions add constraint promotions_decision_check check (
    decision in (
        'promoted', 'refused', 'failed', 'rolled_back', 'rollout', 'withdrawn', 'reconciled', 'paused', 'resumed'
    )
);
