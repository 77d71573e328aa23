"""Deployment to all endpoints: all serve the new bundle or all keep the previous one. Erasure at all of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from recsys_tasks.client.admin import AdminClient, forget
from recsys_tasks.client.fleet import Fleet, PushFailed
from recsys_tasks.engine.bundle import MANIFEST, bundle_digest, pack, read_bundle
from recsys_tasks.errors import ConfigurationError, UnavailableError
from recsys_tasks.stack.environment import find_free_port
from tests.integration.endpoints import TOKEN, install_bundle, running_endpoint, served_versions


@pytest.fixture(scope="module")
def endpoint_urls(tmp_path_factory: pytest.TempPathFactory, bundles: list[Path]) -> Iterator[list[str]]:
    homes = [tmp_path_factory.mktemp("endpoint") for _ in range(2)]
    with ExitStack() as stack:
        for home in homes:
            install_bundle(home, bundles[0])
        yield [stack.enter_context(running_endpoint(home)) for home in homes]


@pytest.fixture
def urls(endpoint_urls: list[str], bundles: list[Path]) -> list[str]:
    """Two endpoints that serve version 1."""
    fleet = Fleet(endpoint_urls, TOKEN)
    fleet.discard()
    fleet.restore(bundle_digest(bundles[0]), lambda: bundles[0])
    return endpoint_urls


def _promote(fleet: Fleet, folder: Path) -> None:
    fleet.stage(folder, bundle_digest(folder))
    fleet.activate(read_bundle(folder))


def _staged(urls: list[str]) -> list[object]:
    return [AdminClient(url, TOKEN).models()["staged"] for url in urls]


def test_a_bundle_is_staged_everywhere_before_it_serves_anywhere(urls: list[str], bundles: list[Path]) -> None:
    fleet = Fleet(urls, TOKEN)
    measured = fleet.stage(bundles[1], bundle_digest(bundles[1]))
    assert served_versions(urls) == ["1", "1"]
    assert all(cost["golden_requests"] > 5 and cost["memory_megabytes"] > 0 for cost in measured.values())
    fleet.activate(read_bundle(bundles[1]))
    assert served_versions(urls) == ["2", "2"]
    _promote(fleet, bundles[1])  # idempotent
    assert served_versions(urls) == ["2", "2"]


def test_the_previous_bundle_is_restored_where_it_does_not_serve(urls: list[str], bundles: list[Path]) -> None:
    fleet, first = Fleet(urls, TOKEN), bundle_digest(bundles[0])
    _promote(Fleet(urls[:1], TOKEN), bundles[1])
    result = fleet.restore(first, lambda: bundles[0])
    assert (list(result.responses), result.problems) == ([urls[0]], {})
    assert served_versions(urls) == ["1", "1"]


def test_an_endpoint_with_another_token_aborts_the_deployment(
    urls: list[str], bundles: list[Path], tmp_path: Path
) -> None:
    with running_endpoint(tmp_path / "other", "other") as other:
        with pytest.raises(ConfigurationError, match="RECSYS_ADMIN_TOKEN"):
            _promote(Fleet([*urls, other], TOKEN), bundles[1])
        assert served_versions([*urls, other]) == ["1", "1", None]
        assert _staged(urls) == [None, None]


def test_an_unreachable_endpoint_aborts_the_deployment(urls: list[str], bundles: list[Path]) -> None:
    unreachable = f"http://127.0.0.1:{find_free_port()}"
    with pytest.raises(UnavailableError, match=f"{unreachable}.*does not answer"):
        _promote(Fleet([*urls, unreachable], TOKEN), bundles[1])
    assert (served_versions(urls), _staged(urls)) == (["1", "1"], [None, None])


def test_an_endpoint_lost_after_staging_rolls_back_the_others(
    urls: list[str], bundles: list[Path], tmp_path: Path
) -> None:
    with running_endpoint(tmp_path / "third") as third:
        fleet = Fleet([*urls, third], TOKEN)
        fleet.stage(bundles[1], bundle_digest(bundles[1]))
    with pytest.raises(UnavailableError, match=third):
        fleet.activate(read_bundle(bundles[1]))
    assert served_versions(urls) == ["1", "1"]


def test_an_endpoint_without_the_staged_bundle_rolls_back_the_others(urls: list[str], bundles: list[Path]) -> None:
    fleet, digest = Fleet(urls, TOKEN), bundle_digest(bundles[1])
    fleet.stage(bundles[1], digest)
    AdminClient(urls[1], TOKEN).discard_staged(digest)
    with pytest.raises(PushFailed, match="is not staged here"):
        fleet.activate(read_bundle(bundles[1]))
    assert (served_versions(urls), _staged(urls)) == (["1", "1"], [None, None])


@pytest.mark.parametrize(
    ("name", "problem"), [("decoder.onnx", r"decoder\.onnx does not match its checksum"), (MANIFEST, "cannot be read")]
)
def test_a_corrupt_bundle_is_rejected_everywhere(
    urls: list[str], bundles: list[Path], tmp_path: Path, name: str, problem: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundles[1], broken)
    (broken / name).write_bytes(b"{}")
    with pytest.raises(PushFailed, match=problem):
        Fleet(urls, TOKEN).stage(broken, bundle_digest(bundles[1]))
    assert (served_versions(urls), _staged(urls)) == (["1", "1"], [None, None])


def test_a_rollback_without_a_previous_bundle_is_rejected(tmp_path: Path, bundles: list[Path]) -> None:
    install_bundle(tmp_path / "fresh", bundles[0])
    with running_endpoint(tmp_path / "fresh") as url:
        with pytest.raises(PushFailed, match="no previous bundle"):
            AdminClient(url, TOKEN, PushFailed).roll_back()
        assert served_versions([url]) == ["1"]


def test_an_incomplete_archive_is_rejected(urls: list[str], bundles: list[Path]) -> None:
    archive = pack(bundles[1])[: -(1 << 16)]
    answer = httpx.put(f"{urls[0]}/v1/admin/staged", content=archive, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 422
    assert served_versions(urls) == ["1", "1"]


def test_users_are_erased_at_every_reachable_endpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    homes, users = [tmp_path / "a", tmp_path / "b"], ["a/b", "..", "ü?#%2F"]
    event = {"event_type": "view", "item_id": "i1"}
    with ExitStack() as stack, caplog.at_level("INFO"):
        urls = [stack.enter_context(running_endpoint(home)) for home in homes]
        for url in urls:
            httpx.post(f"{url}/v1/events", json=[event | {"user_id": user} for user in users]).raise_for_status()
        unreachable = f"http://127.0.0.1:{find_free_port()}"
        with pytest.raises(UnavailableError, match=f"at {unreachable};"):
            forget([urls[0], unreachable, urls[1]], TOKEN, users)
        assert forget(urls, TOKEN, users) == 0
        with pytest.raises(ConfigurationError, match="RECSYS_ADMIN_TOKEN"):
            forget(urls, "wrong", users)
    event_logs = [path.read_text("utf-8") for home in homes for path in home.glob("endpoint/journal/*.jsonl")]
    assert [text.split() for text in event_logs] == [[], []]
    assert not any(f"users/{name}" in caplog.text for name in ("a", "%", "ü", "."))
