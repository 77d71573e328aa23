"""The operations console: what the warehouse, MLflow and the endpoints say, and the actions of people."""
