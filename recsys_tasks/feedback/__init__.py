"""What endpoints saw: from their journals, over HTTP, into the landing files of the source `feedback`."""

from recsys_tasks.feedback.collect import Portion, advance, fetch

__all__ = ["Portion", "advance", "fetch"]
