"""Great Expectations between landing and loading: what breaks a rule is quarantined, or stops the batch."""

from recsys_tasks.validation.context import data_docs_address
from recsys_tasks.validation.gate import ValidationReport, validate

__all__ = ["ValidationReport", "data_docs_address", "validate"]
