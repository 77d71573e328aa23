"""Answers from one bundle, without HTTP: history and session caches, scoring, ranking, search, filters, explanations.

Imports neither Airflow, MLflow, Great Expectations, pandas nor torch.
"""
