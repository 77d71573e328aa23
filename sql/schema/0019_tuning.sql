-- The studies of `tune`. Optuna creates the tables in it, and migrates them.

create schema if not exists tuning;
comment on schema tuning is 'Studies of hyperparameters; Optuna owns its tables.';
