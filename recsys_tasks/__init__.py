"""Session recommender: every step of its loop, usable without Airflow.

One package per step: ingestion, validation, features, model, training, evaluation, registry, promotion, serving,
feedback, monitoring. `dags/` only defines when and in which order the steps run.
"""
