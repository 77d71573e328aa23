"""Validation of landed batches: SQL rules quarantine bad rows, Great Expectations accepts or rejects the batch."""

from recsys_tasks.validation.batch import ValidationReport, validate_batch
from recsys_tasks.validation.context import resolve_data_docs_url

__all__ = ["ValidationReport", "resolve_data_docs_url", "validate_batch"]
