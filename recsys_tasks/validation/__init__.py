"""Great Expectations between landing and loading: what breaks a rule is quarantined, or stops the batch."""

from recsys_tasks.validation.batch import ValidationReport, validate
from recsys_tasks.validation.context import data_docs_address

__all__ = ["ValidationReport", "data_docs_address", "validate"]
