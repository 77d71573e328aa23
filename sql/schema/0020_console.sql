-- What people did in the console.

create table console_actions (
    action_id bigint generated always as identity primary key,
    started_at timestamptz not null default now(),
    person text not null,
    action text not null,
    subject text not null,
    detail text not null,
    outcome text
);
comment on table console_actions is 'Audit record: one action of a person in the console.';
comment on column console_actions.action_id is 'Number of the action.';
comment on column console_actions.started_at is 'When it was started.';
comment on column console_actions.person is 'Name that the person signed in with.';
comment on column console_actions.action is 'What was done: promote, roll back, pause, resume or change rules.';
comment on column console_actions.subject is 'What it was done to: a model version, or the rules.';
comment on column console_actions.detail is 'Reason, or the new content.';
comment on column console_actions.outcome is 'How it ended; null while it runs, or if the console was killed.';
