"""What endpoints saw: from their journals, over HTTP, into the landing files of the source `feedback`."""

from recsys_tasks.feedback.collection import Portion, advance, fetch

__all__ = ["Portion", "advance", "fetch"]
