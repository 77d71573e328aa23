"""Validation of landed batches: SQL rules quarantine bad rows, Great Expectations accepts or rejects the batch.

Great Expectations takes seconds to import, so that this package imports nothing: the rules do without it.
"""
