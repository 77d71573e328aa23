"""Shoppers who use the endpoint over HTTP. Catalogue and habits are those of the warehouse; they know nothing of the
model."""
