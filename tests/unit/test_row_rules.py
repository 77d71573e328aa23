"""Row rules: their names in SQL match their explanations in Python."""

from __future__ import annotations

import re

import pytest

from recsys_tasks.names import COLUMNS_BY_KIND
from recsys_tasks.sql_files import load_sql
from recsys_tasks.validation.row_rules import RULES


@pytest.mark.parametrize("kind", COLUMNS_BY_KIND)
def test_every_sql_rule_has_an_explanation(kind: str) -> None:
    named = set(re.findall(r"then\s+'(\w+)'", load_sql(f"validation/stage_{kind}")))
    assert named == set(RULES[kind])
    assert all(rule.column in COLUMNS_BY_KIND[kind] and rule.reason for rule in RULES[kind].values())
