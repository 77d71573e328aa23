"""Single-machine stack: PostgreSQL, MLflow, Airflow and the endpoint, started by `make run`."""
