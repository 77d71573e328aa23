"""Simulated shoppers of the endpoint. Their catalog and habits come from the warehouse, not from the model."""
