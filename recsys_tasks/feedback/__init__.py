"""Feedback from the endpoints: collects their event logs over HTTP, and attributes actions to impressions."""

from recsys_tasks.feedback.collection import EventLogChunk, advance_cursors, fetch_chunks

__all__ = ["EventLogChunk", "advance_cursors", "fetch_chunks"]
