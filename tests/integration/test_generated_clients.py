"""Clients that generators make of the OpenAPI document compile and work, in Python and in TypeScript."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.endpoints import install_bundle, running_endpoint

_TYPESCRIPT = Path(__file__).parents[1] / "typescript"
_SHOP = """
import asyncio, json, sys
from shop import Client
from shop.api.events import post_events
from shop.api.items import get_item
from shop.api.lists import recommend, search
from shop.models import Event, EventEventType, Problem, RecommendationRequest, SearchRequest

client = Client(sys.argv[1], raise_on_unexpected_status=True)
shown = recommend.sync(client=client, body=RecommendationRequest(user_id="u1", k=3))
best = shown.items[0]
view = Event(EventEventType.VIEW, user_id="u1", item_id=best.item_id, request_id=shown.request_id)
found = asyncio.run(search.asyncio(client=client, body=SearchRequest(best.title, k=5)))
refused = recommend.sync(client=client, body=RecommendationRequest(k=0))
print(json.dumps({
    "shown": len(shown.items),
    "accepted": post_events.sync(client=client, body=view).accepted,
    "found": best.item_id in [hit.item_id for hit in found.items],
    "title": get_item.sync(best.item_id, client=client).item.title == best.title,
    "refused": isinstance(refused, Problem) and refused.status,
}))
"""
_EXPECTED = {"shown": 3, "accepted": 1, "found": True, "title": True, "refused": 422}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, bundles: list[Path]) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    install_bundle(home, bundles[0])
    with running_endpoint(home) as url:
        yield url


@pytest.fixture
def document(url: str, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_bytes(httpx.get(f"{url}/openapi.json").content)
    return path


def _run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_generated_python_client_works(url: str, document: Path, tmp_path: Path) -> None:
    generator = Path(sys.executable).with_name("openapi-python-client")
    _run(generator, "generate", "--path", document, "--output-path", tmp_path / "shop", "--meta", "none", cwd=tmp_path)
    # Also the modules that the script does not import.
    _run(sys.executable, "-m", "compileall", "-q", "shop", cwd=tmp_path)
    assert json.loads(_run(sys.executable, "-c", _SHOP, url, cwd=tmp_path)) == _EXPECTED


def test_a_generated_typescript_client_compiles_and_works(url: str, document: Path, tmp_path: Path) -> None:
    if not (_TYPESCRIPT / "node_modules/.bin/tsc").exists():
        pytest.skip("needs the generator and the compiler: run npm ci --prefix tests/typescript")
    project = tmp_path / "typescript"
    shutil.copytree(_TYPESCRIPT, project, ignore=shutil.ignore_patterns("node_modules"))
    (project / "node_modules").symlink_to(_TYPESCRIPT / "node_modules")
    programs = project / "node_modules/.bin"
    _run(programs / "openapi-typescript", document, "-o", project / "schema.d.ts", cwd=project)
    _run(programs / "tsc", "--project", project, cwd=project)
    assert json.loads(_run("node", "shop.js", url, cwd=project)) == _EXPECTED
