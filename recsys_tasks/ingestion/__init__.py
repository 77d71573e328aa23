"""From source formats through landing tables into `items`, `users` and `events`."""

from recsys_tasks.ingestion.land import land, pending_batches
from recsys_tasks.ingestion.load import load
from recsys_tasks.ingestion.sources import read_source

__all__ = ["land", "load", "pending_batches", "read_source"]
