"""From events to immutable feature snapshots, and from a snapshot's columns to model input.

`sequences` and `vocabulary` need numpy alone, since the endpoint computes its features with them too.
"""
