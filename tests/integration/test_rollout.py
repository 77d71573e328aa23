"""Rollout of a staged model at one endpoint: held, shadow traffic, canary."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper, load, save
from starlette.testclient import TestClient

from recsys_tasks.engine.bundle import DECODER, GOLDEN, MANIFEST, SCAN, bundle_digest, pack, read_bundle, write_manifest
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.memory import available_bytes
from recsys_tasks.engine.probe import probe
from recsys_tasks.engine.ranking import ListOptions
from recsys_tasks.errors import BundleUnusable, GoldenMismatch
from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings
from tests.integration.endpoints import install_bundle

HEADERS = {"Authorization": "Bearer secret"}
USERS = [f"u{number}" for number in range(40)]


def _settings(home: Path, **options: Any) -> Settings:
    return Settings(home=home, admin_token="secret", **options)  # noqa: S106


@pytest.fixture
def client(tmp_path: Path, bundles: list[Path]) -> Iterator[TestClient]:
    install_bundle(tmp_path, bundles[0])
    with TestClient(create_app(_settings(tmp_path))) as test_client:
        yield test_client


def _stage(client: TestClient, folder: Path) -> str:
    answer = client.put("/v1/admin/staged", content=pack(folder), headers=HEADERS)
    assert answer.status_code == 200, answer.text
    digest: str = answer.json()["bundle"]
    return digest


def _change_staged(client: TestClient, digest: str, mode: str, share: float = 0.0) -> int:
    body = {"bundle": digest, "mode": mode, "share": share, "latency_ratio": 1_000.0}
    status: int = client.post("/v1/admin/staged", json=body, headers=HEADERS).status_code
    return status


def _report(client: TestClient) -> dict[str, Any]:
    report: dict[str, Any] = client.get("/v1/admin/model", headers=HEADERS).json()["staged"]
    return report


def _version(client: TestClient, **body: object) -> str:
    answer = client.post("/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    version: str = answer.json()["model_version"]
    return version


def _failing_bundle(bundle: Path, folder: Path) -> Path:
    """A bundle whose graph fails at every request; it has no golden requests, so that staging does not detect it."""
    shutil.copytree(bundle, folder)
    shutil.copy(folder / "encoder.onnx", folder / SCAN)
    (folder / GOLDEN).write_text("[]")
    return _with_manifest(folder)


def _with_manifest(folder: Path) -> Path:
    lineage = {name: value for name, value in read_manifest(folder).items() if name not in ("files", "format")}
    write_manifest(folder, lineage)
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    import json

    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def test_a_staged_model_answers_no_request_until_it_is_activated(client: TestClient, bundles: list[Path]) -> None:
    digest = _stage(client, bundles[1])
    assert {_version(client, user_id=user) for user in USERS} == {"1"}
    assert _report(client)["measured"]["golden_requests"] == len(read_bundle(bundles[1]).golden)
    assert _change_staged(client, digest, "active") == 200
    assert {_version(client, user_id=user) for user in USERS} == {"2"}
    assert _report(client) is None
    assert _change_staged(client, digest, "active") == 200  # repeated: no change
    assert client.delete("/v1/admin/model", headers=HEADERS).json()["model_version"] == "1"


def test_only_the_staged_bundle_can_be_activated(client: TestClient, bundles: list[Path]) -> None:
    _stage(client, bundles[1])
    assert _change_staged(client, "0" * 64, "active") == 409
    client.delete("/v1/admin/staged", headers=HEADERS)
    assert _change_staged(client, bundle_digest(bundles[1]), "active") == 409
    assert _version(client) == "1"


def test_a_staged_bundle_is_replaced_by_another(client: TestClient, bundles: list[Path], tmp_path: Path) -> None:
    _stage(client, _failing_bundle(bundles[1], tmp_path / "other"))
    digest = _stage(client, bundles[1])
    assert _change_staged(client, digest, "active") == 200
    with TestClient(create_app(_settings(tmp_path))) as restarted:
        assert _version(restarted) == "2"


def test_the_cache_is_warm_for_recent_users_after_an_activation(tmp_path: Path, bundles: list[Path]) -> None:
    old, new = (Engine(read_bundle(bundle)) for bundle in bundles)
    now = new.bundle.golden[0]["request"]["now"]
    for user in ("u1", "u2"):
        old.recommend(user, (), (), now, ListOptions(5))
    new.warm_cache(old)
    cold = Engine(read_bundle(bundles[1]))
    warm_answer, cold_answer = (engine.recommend("u1", (), (), now, ListOptions(5)) for engine in (new, cold))
    assert warm_answer.items == cold_answer.items
    assert warm_answer.timings is not None
    assert warm_answer.timings.history_cached
    assert cold_answer.timings is not None
    assert not cold_answer.timings.history_cached


def test_a_canary_serves_a_fixed_share_of_the_users(client: TestClient, bundles: list[Path], tmp_path: Path) -> None:
    digest = _stage(client, bundles[1])
    _change_staged(client, digest, "canary", 0.3)
    first = [_version(client, user_id=user) for user in USERS]
    assert 4 <= first.count("2") <= 20
    assert [_version(client, user_id=user) for user in USERS] == first
    assert {_version(client) for _ in range(20)} == {"1"}  # requests without a user or session are never in the canary
    with TestClient(create_app(_settings(tmp_path))) as restarted:
        assert [_version(restarted, user_id=user) for user in USERS] == first
    _change_staged(client, digest, "canary", 0.6)
    more = [_version(client, user_id=user) for user in USERS]
    assert all(later == "2" for earlier, later in zip(first, more, strict=True) if earlier == "2")
    assert more.count("2") > first.count("2")


def test_shadow_answers_reach_no_caller(client: TestClient, bundles: list[Path]) -> None:
    digest = _stage(client, bundles[1])
    _change_staged(client, digest, "shadow", 1.0)
    for user in USERS:
        assert _version(client, user_id=user) == "1"
    _change_staged(client, digest, "held")  # does not wait for the shadow
    report = _report(client)
    assert report["terms"]["mode"] == "held"
    _change_staged(client, digest, "active")
    assert _version(client) == "2"


def test_shadow_statistics_are_reported(client: TestClient, bundles: list[Path]) -> None:
    _change_staged(client, _stage(client, bundles[1]), "shadow", 1.0)
    deadline = time.monotonic() + 60
    while (report := _report(client))["answers"] < 10:  # copies are answered one by one in the background
        assert time.monotonic() < deadline, f"the shadow answered {report['answers']} copies in a minute"
        _version(client, user_id="u1")
    assert report["errors"] == 0
    assert 0 <= report["overlap"] <= 1
    assert report["milliseconds"] > 0
    assert report["serving_milliseconds"] > 0


def test_a_failing_challenger_fails_no_request_and_ends_its_rollout(
    client: TestClient, bundles: list[Path], tmp_path: Path
) -> None:
    digest = _stage(client, _failing_bundle(bundles[1], tmp_path / "failing"))
    _change_staged(client, digest, "canary", 0.9)
    assert {_version(client, user_id=user) for user in USERS} == {"1"}
    report = _report(client)
    assert report["errors"] == 3
    assert "3 of 3 answers failed" in report["ended"]
    with TestClient(create_app(_settings(tmp_path))) as restarted:
        assert "3 of 3 answers failed" in _report(restarted)["ended"]


def test_no_bundle_is_staged_while_another_is_in_a_rollout(
    client: TestClient, bundles: list[Path], tmp_path: Path
) -> None:
    digest = _stage(client, bundles[1])
    _change_staged(client, digest, "canary", 0.5)
    other = _failing_bundle(bundles[0], tmp_path / "other")
    answer = client.put("/v1/admin/staged", content=pack(other), headers=HEADERS)
    assert (answer.status_code, _report(client)["bundle"]) == (409, digest)
    assert "version 2 is in a rollout" in answer.json()["detail"]


def test_a_bundle_that_exceeds_the_memory_limit_is_rejected(tmp_path: Path, bundles: list[Path]) -> None:
    with TestClient(create_app(_settings(tmp_path, endpoint_memory_mb=1))) as small:
        answer = small.put("/v1/admin/staged", content=pack(bundles[0]), headers=HEADERS)
    assert answer.status_code == 422
    assert "memory" in answer.json()["detail"]


@pytest.mark.parametrize("megabytes", [1, 3])
def test_the_probe_detects_a_bundle_that_needs_more_memory_than_its_size(bundles: list[Path], megabytes: int) -> None:
    with pytest.raises(BundleUnusable, match="memory"):
        probe(bundles[0], megabytes * 10**6)


def test_the_probe_detects_a_crashing_graph(bundles: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "crashing"
    shutil.copytree(bundles[0], folder)
    shutil.copy(folder / "encoder.onnx", folder / SCAN)
    with pytest.raises(GoldenMismatch, match=r"Golden request \d+ failed"):
        probe(_with_manifest(folder), available_bytes())


def test_the_probe_detects_a_graph_that_allocates_all_memory(bundles: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "greedy"
    shutil.copytree(bundles[0], folder)
    graph = load(str(folder / DECODER))
    size = helper.make_tensor("greedy_size", TensorProto.INT64, [1], [1 << 40])
    graph.graph.initializer.append(size)
    graph.graph.node.append(helper.make_node("ConstantOfShape", ["greedy_size"], ["greedy"]))
    graph.graph.node.append(helper.make_node("ReduceSum", ["greedy"], ["greedy_sum"], keepdims=0))
    scores = graph.graph.output[0].name
    inner = f"{scores}_before"
    for node in graph.graph.node:
        node.output[:] = [inner if name == scores else name for name in node.output]
    graph.graph.node.append(helper.make_node("Add", [inner, "greedy_sum"], [scores]))
    save(graph, str(folder / DECODER))
    with pytest.raises((BundleUnusable, GoldenMismatch), match=r"memory|[Ff]ailed"):
        probe(_with_manifest(folder), 10**9)
