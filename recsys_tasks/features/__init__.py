"""Feature snapshots of the warehouse's events, and the encoding of their columns as model input.

The endpoint computes its features with `sequences` and `vocabulary`, so these import numpy alone.
"""
