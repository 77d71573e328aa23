"""How good a model is: protocols, metrics, baselines, and the promotion gate."""
