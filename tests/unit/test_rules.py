"""Each rule has its name in SQL and its reason, for people, in Python."""

from __future__ import annotations

import re

import pytest

from recsys_tasks.names import KINDS
from recsys_tasks.sql_files import source
from recsys_tasks.validation.row_rules import RULES


@pytest.mark.parametrize("kind", KINDS)
def test_the_rules_of_sql_are_those_that_have_a_reason(kind: str) -> None:
    named = set(re.findall(r"then\s+'(\w+)'", source(f"validation/stage_{kind}")))
    assert named == set(RULES[kind])
    assert all(rule.column in KINDS[kind] and rule.reason for rule in RULES[kind].values())
