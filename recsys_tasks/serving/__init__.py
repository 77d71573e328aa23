"""The HTTP endpoint. Imports neither Airflow, MLflow, Great Expectations, pandas nor torch."""
