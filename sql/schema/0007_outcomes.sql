-- What came of what was shown, counted by day, and what the loop makes of it.

-- Visitors who behaved like machines on a day: they count and teach nothing. A visitor is known as in features/day.sql.
create table flagged_visitors (
    visitor text not null,
    day date not null,
    reason text not null,
    loaded_number integer not null references batches (loaded_number),
    primary key (visitor, day)
);

-- One request whose impressions were noted, on the day it was made; late clicks are counted into that day.
create table request_outcomes (
    day date not null,
    request_id text not null,
    visitor text not null,
    session text not null,
    shown_at timestamptz not null,
    list text not null,
    model_version text not null,
    experiment text not null,
    arm text not null,
    segment text not null,
    traffic text not null,
    -- The share of requests that was noted when this one was.
    sampled real not null,
    milliseconds real,
    impressions integer not null,
    -- Of these items, how many were acted on at all, put in a cart or bought, and bought; what was paid for them.
    clicks integer not null,
    carts integer not null,
    purchases integer not null,
    revenue numeric not null,
    -- Of interleaved lists: whose the items are that were clicked.
    team_clicks jsonb
);
create index request_outcomes_by_day on request_outcomes (day);
create index request_outcomes_by_visitor on request_outcomes (visitor);

-- Those that count: of shoppers, without visitors who behaved like machines on the day.
create view shopper_outcomes as
select request_outcomes.*  -- noqa: AM04
from request_outcomes
left join flagged_visitors
    on request_outcomes.visitor = flagged_visitors.visitor and request_outcomes.day = flagged_visitors.day
where request_outcomes.traffic = 'shopper' and flagged_visitors.visitor is null;

-- Up to which change of the warehouse each day is counted.
create table outcome_days (
    day date primary key,
    known integer not null
);

-- Figures of a day, for dashboards: '' is for none, and for all segments together.
create table online_metrics (
    day date not null,
    list text not null,
    model_version text not null,
    experiment text not null,
    arm text not null,
    segment text not null,
    metric text not null,
    value double precision,
    low double precision,
    high double precision,
    visitors bigint not null,
    primary key (day, list, model_version, experiment, arm, segment, metric)
);

-- Parts hold at what place of a list an item was shown since 0.4.0: those of before are built anew.
delete from feature_parts;

-- What a rule found, from when until when it held.
create table alarms (
    alarm_id bigint generated always as identity primary key,
    rule text not null,
    model_version text not null,
    action text not null check (action in ('tell', 'retrain', 'hold', 'roll_back')),
    explanation text not null,
    evidence jsonb not null,
    raised_at timestamptz not null default now(),
    seen_at timestamptz not null default now(),
    acted_at timestamptz,
    outcome text,
    closed_at timestamptz
);
create unique index alarms_open on alarms (rule, model_version) where closed_at is null;
