"""Training runs: recipe, fit, evaluation and registration of one snapshot in MLflow. The network is in `model`."""
