"""Between landing and loading: a row that breaks a rule of the SQL is quarantined; Great Expectations judges the batch
by its profile, and may stop it."""

from recsys_tasks.validation.batch import ValidationReport, validate
from recsys_tasks.validation.context import data_docs_address

__all__ = ["ValidationReport", "data_docs_address", "validate"]
