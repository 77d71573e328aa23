"""The OpenAPI document tells the truth, and nothing that is made from it, right or wrong, breaks the endpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route

from recsys_tasks.serving.app import create_app
from recsys_tasks.serving.openapi import OPERATIONS, Operation
from recsys_tasks.settings import Settings
from tests.integration.endpoints import TOKEN as SECRET
from tests.integration.endpoints import running_endpoint, serves_already

TOKEN = {"Authorization": f"Bearer {SECRET}"}
_CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
_FUZZ = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, bundles: list[Path]) -> Iterator[str]:
    home = tmp_path_factory.mktemp("fuzzed")
    serves_already(home, bundles[0])
    with running_endpoint(home) as found:
        yield found


def test_every_route_is_in_the_document_and_no_other(tmp_path: Path) -> None:
    routes = {
        (method.lower(), route.path.replace(":path", ""))
        for route in create_app(Settings(home=tmp_path)).routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert routes - {("get", "/openapi.json")} == {(one.method, one.path) for one in OPERATIONS}


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one.example], ids=lambda one: one.path)
def test_the_examples_are_answered(url: str, operation: Operation) -> None:
    documented = httpx.get(f"{url}/openapi.json").json()["paths"][operation.path][operation.method]
    example = documented["requestBody"]["content"]["application/json"]["example"]
    answer = httpx.request(operation.method, url + operation.path, json=example)
    assert answer.status_code == (401 if operation.admin else 200), answer.text


_RIGHT = [(one, GenerationMode.POSITIVE) for one in OPERATIONS]
_WRONG = [(one, GenerationMode.NEGATIVE) for one in OPERATIONS if one.body or one.query or "{" in one.path]


@pytest.mark.parametrize(("operation", "mode"), [*_RIGHT, *_WRONG])
def test_whatever_is_asked_the_answer_is_one_of_the_document_and_comes_within_a_second(
    url: str, operation: Operation, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    takes_the_model_away = (operation.method, operation.path) == ("delete", "/v1/admin/model")

    @_FUZZ
    @given(case=schema[operation.path][operation.method].as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        began = time.monotonic()
        answer = case.call(headers={} if takes_the_model_away else TOKEN)
        assert time.monotonic() - began < 1, case.as_curl_command()
        case.validate_response(answer, checks=_CHECKS)

    ask()
    assert httpx.get(f"{url}/readyz").status_code == 200
