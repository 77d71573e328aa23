"""The work of the recommender: importable and runnable without Airflow.

One room per step of the loop: ingestion, validation, features, model, evaluation, registry, promotion,
serving, feedback. `dags/` only says when and in what order these run.
"""
