"""MLflow: runs, versions and aliases of the registered model."""
