"""The OpenAPI document matches the endpoint; generated requests, valid or not, get documented responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
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
from recsys_tasks.serving.deprecation import DEPRECATIONS, Deprecation
from recsys_tasks.serving.openapi import OPERATIONS, Operation, build_openapi_document
from recsys_tasks.settings import Settings
from tests.integration.endpoints import TOKEN as SECRET
from tests.integration.endpoints import install_bundle, running_endpoint

TOKEN = {"Authorization": f"Bearer {SECRET}"}
_CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
_FUZZ = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@schemathesis.serializer("application/x-ndjson")
def _serialize_lines(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, bundles: list[Path]) -> Iterator[str]:
    home = tmp_path_factory.mktemp("fuzzing")
    install_bundle(home, bundles[0])
    with running_endpoint(home) as url:
        yield url


def test_the_document_lists_exactly_the_routes(tmp_path: Path) -> None:
    routes = {
        (method.lower(), route.path.replace(":path", ""))
        for route in create_app(Settings(home=tmp_path)).routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert routes - {("get", "/openapi.json")} == {(operation.method, operation.path) for operation in OPERATIONS}


def test_a_deprecated_operation_says_so_in_its_answers_and_in_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = Deprecation(datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 7, 1, tzinfo=UTC), "/v2/model")
    monkeypatch.setitem(DEPRECATIONS, ("get", "/v1/model"), announced)
    app = create_app(Settings(home=tmp_path))

    async def headers(path: str) -> httpx.Headers:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
            return (await client.get(path)).headers

    deprecated, other = asyncio.run(headers("/v1/model")), asyncio.run(headers("/v1/suggest?q=a"))
    assert deprecated["Deprecation"] == "@1798761600"
    assert deprecated["Sunset"] == "Thu, 01 Jul 2027 00:00:00 GMT"
    assert deprecated["Link"] == '</v2/model>; rel="successor-version"'
    assert not {"Deprecation", "Sunset", "Link"} & set(other)
    paths = json.loads(build_openapi_document.__wrapped__())["paths"]
    assert paths["/v1/model"]["get"]["deprecated"]
    assert "deprecated" not in paths["/v1/suggest"]["get"]


def test_optional_fields_of_requests_have_no_default_in_the_document() -> None:
    """Generators take a field with a default as one that every request has."""
    schemas = json.loads(build_openapi_document())["components"]["schemas"]
    for name in ("RecommendationRequest", "SearchRequest", "Event", "Item", "Filter", "SessionEvent"):
        assert not [field for field, schema in schemas[name]["properties"].items() if "default" in schema], name
    assert schemas["RecommendationRequest"]["properties"]["k"]["description"].endswith("Default: 20.")


@pytest.mark.parametrize(
    "operation", [operation for operation in OPERATIONS if operation.example], ids=lambda operation: operation.path
)
def test_the_documented_examples_are_accepted(url: str, operation: Operation) -> None:
    documented = httpx.get(f"{url}/openapi.json").json()["paths"][operation.path][operation.method]
    example = documented["requestBody"]["content"]["application/json"]["example"]
    answer = httpx.request(operation.method, url + operation.path.format(item_id="i3", consumer="c"), json=example)
    assert answer.status_code == (401 if operation.is_admin else 200), answer.text


_VALID = [(operation, GenerationMode.POSITIVE) for operation in OPERATIONS]
_INVALID = [
    (operation, GenerationMode.NEGATIVE)
    for operation in OPERATIONS
    if operation.body
    or operation.query
    or ("{" in operation.path and operation.is_admin)  # every text is a valid id, but access can be invalid
]


@pytest.mark.parametrize(("operation", "mode"), [*_VALID, *_INVALID])
def test_generated_requests_get_a_documented_response(url: str, operation: Operation, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    removes_the_model = (operation.method, operation.path) == ("delete", "/v1/admin/model")

    @_FUZZ
    @given(case=schema[operation.path][operation.method].as_strategy(generation_mode=mode))
    def send(case: Case[Any]) -> None:
        answer = case.call(headers={} if removes_the_model else TOKEN)
        case.validate_response(answer, checks=_CHECKS)

    send()
    assert httpx.get(f"{url}/readyz").status_code == 200
