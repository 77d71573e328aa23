"""Simulated shoppers of the endpoint, from the warehouse's households; their wishes do not come from the model."""
