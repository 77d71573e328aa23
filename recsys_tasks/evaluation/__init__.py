"""Offline evaluation: protocol, metrics, baselines and the promotion gate."""
