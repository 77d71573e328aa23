"""A staged model at one endpoint: beside the one that serves, in the shadow, as a canary."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper, load, save
from starlette.testclient import TestClient

from recsys_tasks.engine.bundle import DECODER, GOLDEN, MANIFEST, SCAN, bundle_digest, pack, read_bundle, seal
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.memory import available_bytes
from recsys_tasks.engine.probe import probe
from recsys_tasks.engine.ranking import Wishes
from recsys_tasks.errors import BundleUnusable, GoldenMismatch
from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings
from tests.integration.endpoints import serves_already

HEADERS = {"Authorization": "Bearer secret"}
USERS = [f"u{number}" for number in range(40)]


def _settings(home: Path, **others: Any) -> Settings:
    return Settings(home=home, admin_token="secret", **others)  # noqa: S106


@pytest.fixture
def client(tmp_path: Path, bundles: list[Path]) -> Iterator[TestClient]:
    serves_already(tmp_path, bundles[0])
    with TestClient(create_app(_settings(tmp_path))) as found:
        yield found


def _stage(client: TestClient, folder: Path) -> str:
    answer = client.put("/v1/admin/staged", content=pack(folder), headers=HEADERS)
    assert answer.status_code == 200, answer.text
    digest: str = answer.json()["bundle"]
    return digest


def _change(client: TestClient, digest: str, mode: str, share: float = 0.0) -> int:
    body = {"bundle": digest, "mode": mode, "share": share, "latency_ratio": 1_000.0}
    status: int = client.post("/v1/admin/staged", json=body, headers=HEADERS).status_code
    return status


def _report(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/v1/admin/model", headers=HEADERS).json()["staged"]
    return found


def _version(client: TestClient, **asked: object) -> str:
    answer = client.post("/v1/recommendations", json=asked)
    assert answer.status_code == 200, answer.text
    version: str = answer.json()["model_version"]
    return version


def _failing(bundle: Path, folder: Path) -> Path:
    """A bundle whose graph fails at every request; its golden requests are none, so that this is not found out."""
    shutil.copytree(bundle, folder)
    shutil.copy(folder / "encoder.onnx", folder / SCAN)
    (folder / GOLDEN).write_text("[]")
    return _sealed(folder)


def _sealed(folder: Path) -> Path:
    lineage = {name: value for name, value in read_manifest(folder).items() if name not in ("files", "format")}
    seal(folder, lineage)
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return found


def test_a_staged_model_answers_nobody_until_it_is_activated(client: TestClient, bundles: list[Path]) -> None:
    digest = _stage(client, bundles[1])
    assert {_version(client, user_id=user) for user in USERS} == {"1"}
    assert _report(client)["measured"]["golden_requests"] == len(read_bundle(bundles[1]).golden)
    assert _change(client, digest, "active") == 200
    assert {_version(client, user_id=user) for user in USERS} == {"2"}
    assert _report(client) is None
    assert _change(client, digest, "active") == 200  # again: nothing to do
    assert client.delete("/v1/admin/model", headers=HEADERS).json()["model_version"] == "1"


def test_only_the_staged_bundle_can_be_activated(client: TestClient, bundles: list[Path]) -> None:
    _stage(client, bundles[1])
    assert _change(client, "0" * 64, "active") == 409
    client.delete("/v1/admin/staged", headers=HEADERS)
    assert _change(client, bundle_digest(bundles[1]), "active") == 409
    assert _version(client) == "1"


def test_a_staged_bundle_makes_way_for_another(client: TestClient, bundles: list[Path], tmp_path: Path) -> None:
    _stage(client, _failing(bundles[1], tmp_path / "other"))
    digest = _stage(client, bundles[1])
    assert _change(client, digest, "active") == 200
    with TestClient(create_app(_settings(tmp_path))) as again:
        assert _version(again) == "2"


def test_who_asked_before_a_swap_is_known_to_the_new_model(tmp_path: Path, bundles: list[Path]) -> None:
    old, new = (Engine(read_bundle(bundle)) for bundle in bundles)
    now = new.bundle.golden[0]["request"]["now"]
    for user in ("u1", "u2"):
        old.recommend(user, (), (), now, Wishes(5))
    new.warm(old)
    cold = Engine(read_bundle(bundles[1]))
    found, fresh = (engine.recommend("u1", (), (), now, Wishes(5)) for engine in (new, cold))
    assert found.items == fresh.items
    assert found.spent is not None
    assert found.spent.kept
    assert fresh.spent is not None
    assert not fresh.spent.kept


def test_a_canary_has_a_share_of_the_users_and_always_the_same_ones(
    client: TestClient, bundles: list[Path], tmp_path: Path
) -> None:
    digest = _stage(client, bundles[1])
    _change(client, digest, "canary", 0.3)
    first = [_version(client, user_id=user) for user in USERS]
    assert 4 <= first.count("2") <= 20
    assert [_version(client, user_id=user) for user in USERS] == first
    assert {_version(client) for _ in range(20)} == {"1"}  # nobody's requests cannot be told apart
    with TestClient(create_app(_settings(tmp_path))) as again:
        assert [_version(again, user_id=user) for user in USERS] == first
    _change(client, digest, "canary", 0.6)
    more = [_version(client, user_id=user) for user in USERS]
    assert all(later == "2" for before, later in zip(first, more, strict=True) if before == "2")
    assert more.count("2") > first.count("2")


def test_in_the_shadow_the_challenger_answers_copies_that_no_caller_sees(
    client: TestClient, bundles: list[Path]
) -> None:
    digest = _stage(client, bundles[1])
    _change(client, digest, "shadow", 1.0)
    for user in USERS:
        assert _version(client, user_id=user) == "1"
    _change(client, digest, "held")  # waits for nothing
    report = _report(client)
    assert report["terms"]["mode"] == "held"
    _change(client, digest, "active")
    assert _version(client) == "2"


def test_what_the_shadow_showed_is_reported(client: TestClient, bundles: list[Path]) -> None:
    _change(client, _stage(client, bundles[1]), "shadow", 1.0)
    deadline = time.monotonic() + 60
    while (report := _report(client))["answers"] < 10:  # the copies are answered one after another beside the requests
        assert time.monotonic() < deadline, f"the shadow answered {report['answers']} copies in a minute"
        _version(client, user_id="u1")
    assert report["errors"] == 0
    assert 0 <= report["overlap"] <= 1
    assert report["milliseconds"] > 0
    assert report["serving_milliseconds"] > 0


def test_a_challenger_that_fails_costs_no_answer_and_ends_its_trial(
    client: TestClient, bundles: list[Path], tmp_path: Path
) -> None:
    digest = _stage(client, _failing(bundles[1], tmp_path / "failing"))
    _change(client, digest, "canary", 0.9)
    assert {_version(client, user_id=user) for user in USERS} == {"1"}
    report = _report(client)
    assert report["errors"] == 3
    assert "3 of 3 answers failed" in report["ended"]
    with TestClient(create_app(_settings(tmp_path))) as again:
        assert "3 of 3 answers failed" in _report(again)["ended"]


def test_while_one_bundle_is_on_trial_another_is_not_staged(
    client: TestClient, bundles: list[Path], tmp_path: Path
) -> None:
    digest = _stage(client, bundles[1])
    _change(client, digest, "canary", 0.5)
    other = _failing(bundles[0], tmp_path / "other")
    answer = client.put("/v1/admin/staged", content=pack(other), headers=HEADERS)
    assert (answer.status_code, _report(client)["bundle"]) == (409, digest)
    assert "version 2 is on trial" in answer.json()["detail"]


def test_a_bundle_for_which_there_is_no_memory_is_refused(tmp_path: Path, bundles: list[Path]) -> None:
    with TestClient(create_app(_settings(tmp_path, endpoint_memory_megabytes=1))) as small:
        answer = small.put("/v1/admin/staged", content=pack(bundles[0]), headers=HEADERS)
    assert answer.status_code == 422
    assert "memory" in answer.json()["detail"]


@pytest.mark.parametrize("megabytes", [1, 3])
def test_a_bundle_that_takes_more_memory_than_it_has_bytes_is_found_out(bundles: list[Path], megabytes: int) -> None:
    with pytest.raises(BundleUnusable, match="memory"):
        probe(bundles[0], megabytes * 10**6)


def test_a_graph_that_crashes_is_found_out_before_it_comes_near_anybody(bundles: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "crashing"
    shutil.copytree(bundles[0], folder)
    shutil.copy(folder / "encoder.onnx", folder / SCAN)
    with pytest.raises(GoldenMismatch, match=r"Golden request \d+ failed"):
        probe(_sealed(folder), available_bytes())


def test_a_graph_that_asks_for_all_memory_is_found_out(bundles: list[Path], tmp_path: Path) -> None:
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
        probe(_sealed(folder), 10**9)
