"""Shoppers who use the endpoint over HTTP; they know nothing of the model."""
