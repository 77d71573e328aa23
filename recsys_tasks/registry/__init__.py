"""MLflow: training runs, and versions and aliases of the registered model."""
