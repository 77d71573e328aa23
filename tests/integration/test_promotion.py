"""Promotions with a real registry, warehouse and three endpoints.

A promotion is atomic: the new version serves everywhere, or the old one does, and the record says why.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, Row, text

from recsys_tasks.client.admin import AdminClient
from recsys_tasks.client.fleet import PushFailed
from recsys_tasks.engine.bundle import DECODER, MANIFEST, bundle_digest, read_bundle, write_manifest
from recsys_tasks.errors import ConfigurationError, InputError, UnavailableError
from recsys_tasks.monitoring.alarms import Alarm
from recsys_tasks.names import CHAMPION, PREVIOUS, REGISTERED_MODEL
from recsys_tasks.promotion.activation import require_trained
from recsys_tasks.promotion.deployment_record import (
    PROMOTED,
    REFUSED,
    DeployedVersion,
    deployment_lock,
    insert_decision,
    read_state,
)
from recsys_tasks.promotion.rollout import RolloutFailed
from recsys_tasks.registry import versions
from recsys_tasks.registry.tracking import client
from recsys_tasks.settings import settings
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.steps import monitoring, promotion
from recsys_tasks.warehouse import engine
from tests.conftest import clear_cached_settings, database, fresh_warehouse
from tests.integration.endpoints import TOKEN, install_bundle, running_endpoint, served_versions


@dataclass(frozen=True)
class Deployment:
    """Warehouse, three endpoints, and the bundles of the registered versions 1, 2 and 3."""

    warehouse: Engine
    urls: list[str]
    folders: dict[str, Path]
    patch: pytest.MonkeyPatch

    def promote(self, version: str) -> None:
        promotion.activate(version, self.folders[version], ["good"], "somebody")

    def set(self, **variables: object) -> None:
        for name, value in variables.items():
            self.patch.setenv(f"RECSYS_{name}", str(value))
        settings.cache_clear()

    def use_endpoints(self, *urls: str) -> None:
        self.set(ENDPOINT_URLS=json.dumps(urls))

    def decisions(self) -> list[Row[tuple[object, ...]]]:
        with self.warehouse.connect() as connection:
            return list(connection.execute(text("select * from promotions order by promotion_id")).all())

    @property
    def last(self) -> Row[tuple[object, ...]]:
        return self.decisions()[-1]

    def serving(self) -> list[str | None]:
        return served_versions(self.urls)


@pytest.fixture(scope="module")
def world(
    postgres: str, tracking_template: str, bundles: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, list[str], dict[str, Path]]]:
    home = tmp_path_factory.mktemp("promotion")
    with ExitStack() as stack:
        warehouse = stack.enter_context(fresh_warehouse(postgres))
        registry = stack.enter_context(database(postgres, f"mlflow_{uuid.uuid4().hex[:12]}", tracking_template))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.chdir(home)
        # Detecting the languages of a catalog costs each check of a bundle more than half a second.
        (home / "search.toml").write_text('languages = ["english"]\n')
        for name, value in {
            "HOME": home,
            "SEARCH_SETTINGS": home / "search.toml",
            "WAREHOUSE_URL": warehouse.url.render_as_string(hide_password=False),
            "MLFLOW_TRACKING_URI": registry.url.render_as_string(hide_password=False),
            "ADMIN_TOKEN": TOKEN,
        }.items():
            patch.setenv(f"RECSYS_{name}", str(value))
        patch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")  # where MLflow is unavailable
        clear_cached_settings()
        folders = {number: _register_version(home, number, bundles[int(number) % 2]) for number in ("1", "2", "3")}
        urls = []
        for number in range(3):
            install_bundle(home / f"endpoint{number}", folders["1"])
            urls.append(stack.enter_context(running_endpoint(home / f"endpoint{number}")))
        yield warehouse, urls, folders
        engine().dispose()
    clear_cached_settings()


def _register_version(home: Path, number: str, bundle: Path) -> Path:
    """Registers a version; returns its bundle."""
    if number == "1":
        client().create_registered_model(REGISTERED_MODEL)
    run = client().create_run(client().create_experiment(f"of version {number}")).info.run_id
    found = client().create_model_version(REGISTERED_MODEL, f"runs:/{run}/model", run, tags={"snapshot_id": "s"})
    assert str(found.version) == number
    building = home / "building"
    shutil.copytree(bundle, building)
    manifest = json.loads((building / MANIFEST).read_text(encoding="utf-8"))
    write_manifest(building, {**_lineage(manifest), "model_version": number, "run_id": run})
    (home / "bundles").mkdir(exist_ok=True)
    return building.rename(home / "bundles" / bundle_digest(building))


def _lineage(manifest: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in manifest.items() if name not in ("files", "format")}


@pytest.fixture
def shop(world: tuple[Engine, list[str], dict[str, Path]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Version 1 serves everywhere; no earlier decision exists."""
    warehouse, urls, folders = world
    found = Deployment(warehouse, urls, folders, monkeypatch)
    found.use_endpoints(*urls)
    fleet = promotion.deployment().fleet
    fleet.discard()
    fleet.restore(folders["1"].name, lambda: folders["1"])  # from disk, where it served before
    with warehouse.begin() as connection:
        connection.execute(text("delete from promotions"))
        connection.execute(text("delete from events"))
        connection.execute(text("delete from alarms"))
    found.promote("1")
    yield found
    monkeypatch.undo()
    settings.cache_clear()


def _alias(name: str) -> str | None:
    found = versions.version_by_alias(name)
    return found.number if found else None


def _unavailable_url() -> str:
    return f"http://127.0.0.1:{find_free_port()}"


def test_a_promoted_version_serves_everywhere_and_is_recorded(shop: Deployment) -> None:
    shop.promote("2")
    assert shop.serving() == ["2", "2", "2"]
    assert (_alias(CHAMPION), _alias(PREVIOUS)) == ("2", "1")
    assert (shop.last.decision, shop.last.model_version, shop.last.approved_by) == ("promoted", "2", "somebody")
    tags = client().get_model_version(REGISTERED_MODEL, "2").tags
    assert tags["approved_by"] == "somebody"
    assert tags["serving"].startswith("champion since 20")
    before = len(shop.decisions())
    shop.promote("2")  # idempotent: no new record
    assert len(shop.decisions()) == before


def test_a_repeated_refusal_is_recorded_once_and_other_decisions_each_time(warehouse: Engine) -> None:
    bundle = DeployedVersion("2", "run", "snapshot", "digest")
    for reasons in (["too slow"], ["too slow"], ["too slow", "too old"]):
        insert_decision(warehouse, bundle, REFUSED, reasons, evidence={"findings": []})
        insert_decision(warehouse, bundle._replace(bundle_digest=None), REFUSED, reasons)
    insert_decision(warehouse, bundle._replace(bundle_digest="another"), REFUSED, ["too slow"])
    for _ in range(2):  # the deployment state follows from these, so each is recorded
        insert_decision(warehouse, bundle, PROMOTED, ["good"])
    with warehouse.connect() as connection:
        rows = connection.execute(
            text(
                "select decision, coalesce(bundle_digest, ''), jsonb_array_length(reasons), count(*)"
                " from promotions group by 1, 2, 3"
            )
        ).all()
    assert set(map(tuple, rows)) == {
        ("refused", "digest", 1, 1),
        ("refused", "digest", 2, 1),
        ("refused", "", 1, 1),
        ("refused", "", 2, 1),
        ("refused", "another", 1, 1),
        ("promoted", "digest", 1, 2),
    }


def test_a_rollback_restores_the_previous_version_everywhere(shop: Deployment) -> None:
    shop.promote("2")
    shop.promote("3")
    assert promotion.roll_back("it recommends nothing but socks", "somebody") == "2"
    assert shop.serving() == ["2", "2", "2"]
    assert (_alias(CHAMPION), _alias(PREVIOUS)) == ("2", "1")
    assert (shop.last.decision, shop.last.reasons) == ("rolled_back", ["it recommends nothing but socks"])
    assert "socks" in client().get_model_version(REGISTERED_MODEL, "3").tags["serving"]
    assert promotion.roll_back() == "1"  # endpoints keep one previous bundle; the pipeline has the others
    assert shop.serving() == ["1", "1", "1"]
    with pytest.raises(InputError, match="No version was promoted before 1"):
        promotion.roll_back()


def test_with_an_unavailable_endpoint_the_old_version_stays(shop: Deployment) -> None:
    unavailable = _unavailable_url()
    shop.use_endpoints(*shop.urls[:2], unavailable)
    with pytest.raises(UnavailableError, match=unavailable):
        shop.promote("2")
    assert shop.serving() == ["1", "1", "1"]
    assert _alias(CHAMPION) == "1"
    assert (shop.last.decision, shop.last.model_version) == ("failed", "2")
    assert unavailable in shop.last.reasons[0]


def test_a_partial_rollback_is_completed_by_reconciling(shop: Deployment, tmp_path: Path) -> None:
    port = find_free_port()
    with running_endpoint(tmp_path / "fourth", port=port) as fourth:
        shop.use_endpoints(*shop.urls, fourth)
        shop.promote("2")
    with pytest.raises(UnavailableError, match=rf"not everywhere: {fourth}.*reconcile"):
        promotion.roll_back()
    assert shop.serving() == ["1", "1", "1"]
    with running_endpoint(tmp_path / "fourth", port=port):
        assert served_versions([fourth]) == ["2"]
        found = promotion.reconcile()
        assert (found.version, found.problems) == ("1", [])
        assert served_versions([fourth]) == ["1"]
        assert (shop.last.decision, shop.last.reasons) == ("reconciled", [f"{fourth} served version 2"])


def test_with_an_unavailable_registry_nothing_changes_and_the_failure_is_recorded(shop: Deployment) -> None:
    shop.set(MLFLOW_TRACKING_URI=_unavailable_url())
    with pytest.raises(UnavailableError, match="MLflow does not answer"):
        shop.promote("2")
    assert shop.serving() == ["1", "1", "1"]
    assert (shop.last.decision, shop.last.model_version) == ("failed", "2")
    assert "MLflow does not answer" in shop.last.reasons[0]


def test_a_rollback_needs_no_registry_and_reconciling_updates_it_later(shop: Deployment) -> None:
    shop.promote("2")
    tracking = os.environ["RECSYS_MLFLOW_TRACKING_URI"]
    shop.set(MLFLOW_TRACKING_URI=_unavailable_url())
    with pytest.raises(UnavailableError, match="Version 1 serves everywhere, only the registry does not know yet"):
        promotion.roll_back()
    assert shop.serving() == ["1", "1", "1"]
    shop.set(MLFLOW_TRACKING_URI=tracking)
    assert _alias(CHAMPION) == "2"
    assert promotion.reconcile().changes == [
        "alias champion from version 2 to 1",
        "alias previous from version 1 to none",
    ]
    assert _alias(CHAMPION) == "1"


@pytest.mark.parametrize("token", ["wrong", None])
def test_a_wrong_or_missing_token_changes_nothing(shop: Deployment, token: str | None) -> None:
    if token is None:
        shop.patch.delenv("RECSYS_ADMIN_TOKEN")
    else:
        shop.patch.setenv("RECSYS_ADMIN_TOKEN", token)
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="RECSYS_ADMIN_TOKEN"):
        shop.promote("2")
    assert shop.serving() == ["1", "1", "1"]
    assert (shop.last.decision, shop.last.model_version) == ("failed", "2")


def test_a_promotion_killed_between_staging_and_activation_succeeds_on_retry(shop: Deployment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never responds
        shop.use_endpoints(*shop.urls, f"http://127.0.0.1:{silent.getsockname()[1]}")
        program = (
            "import sys; from pathlib import Path; from recsys_tasks.steps import promotion;"
            " promotion.activate('2', Path(sys.argv[1]))"
        )
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program, str(shop.folders["2"])])
        clients = [AdminClient(url, TOKEN) for url in shop.urls]
        while not all(client.models()["staged"] for client in clients):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert shop.serving() == ["1", "1", "1"]
    shop.use_endpoints(*shop.urls)
    shop.promote("2")
    assert shop.serving() == ["2", "2", "2"]
    assert [row.decision for row in shop.decisions()] == ["promoted", "promoted"]


def test_a_promotion_killed_during_activation_is_reverted_or_succeeds_on_retry(shop: Deployment) -> None:
    digest = bundle_digest(shop.folders["2"])
    for again in (False, True):
        promotion.deployment().fleet.stage(shop.folders["2"], digest)
        AdminClient(shop.urls[0], TOKEN).change_staged(digest, "active")
        assert shop.serving() == ["2", "1", "1"]
        if again:
            shop.promote("2")
            assert shop.serving() == ["2", "2", "2"]
        else:
            assert f"{shop.urls[0]} served version 2" in promotion.reconcile().changes
            assert shop.serving() == ["1", "1", "1"]
            assert all(AdminClient(url, TOKEN).models()["staged"] is None for url in shop.urls)


def test_a_partial_activation_is_reverted_if_the_retry_fails(shop: Deployment) -> None:
    digest = bundle_digest(shop.folders["2"])
    promotion.deployment().fleet.stage(shop.folders["2"], digest)
    AdminClient(shop.urls[0], TOKEN).change_staged(digest, "active")
    unavailable = _unavailable_url()
    shop.use_endpoints(*shop.urls, unavailable)
    with pytest.raises(UnavailableError, match=unavailable):
        shop.promote("2")
    assert shop.serving() == ["1", "1", "1"]


def test_concurrent_promotions_are_serialized(shop: Deployment) -> None:
    problems: list[Exception] = []

    def promote(version: str) -> None:
        try:
            shop.promote(version)
        except Exception as error:
            problems.append(error)

    both = [threading.Thread(target=promote, args=(version,)) for version in ("2", "3")]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert problems == []
    (last,) = set(shop.serving())
    assert (_alias(CHAMPION), shop.last.model_version) == (last, last)
    assert {_alias(PREVIOUS), last} == {"2", "3"}


def test_reconciling_does_not_interfere_with_a_promotion_under_way(shop: Deployment) -> None:
    with deployment_lock(shop.warehouse), pytest.raises(UnavailableError, match="under way"):
        promotion.reconcile()


def test_an_alias_moved_by_hand_is_reset_to_the_deployed_version(shop: Deployment) -> None:
    client().set_registered_model_alias(REGISTERED_MODEL, CHAMPION, "3")
    assert promotion.reconcile().changes == ["alias champion from version 3 to 1"]
    assert _alias(CHAMPION) == "1"
    assert shop.last.decision == "reconciled"
    assert promotion.reconcile().changes == []


def test_a_bundle_that_exceeds_a_limit_is_activated_nowhere(shop: Deployment, tmp_path: Path) -> None:
    strict = tmp_path / "gate.toml"
    rules = "[baselines]\nnames=[]\nmetrics=[]\n[champion]\nmetric='mrr_20'\nconfidence=0.95\nmin_gain=0.0\n"
    strict.write_text(rules + "[limits]\nmemory_megabytes = 0.0001\n")
    shop.set(GATE_RULES=strict)
    with pytest.raises(PushFailed, match=r"memory_megabytes at most 0\.0001"):
        shop.promote("2")
    assert shop.serving() == ["1", "1", "1"]
    assert all(AdminClient(url, TOKEN).models()["staged"] is None for url in shop.urls)


def test_a_flipped_bit_between_build_and_push_is_detected(shop: Deployment, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(shop.folders["2"], broken)
    content = bytearray((broken / DECODER).read_bytes())
    content[len(content) // 2] ^= 1
    (broken / DECODER).write_bytes(content)
    with pytest.raises(Exception, match=r"decoder\.onnx does not match its checksum"):
        promotion.activate("2", broken)
    assert shop.serving() == ["1", "1", "1"]


class TestRollout:
    """Rollout: one hour of shadow traffic, then one day of canary."""

    @pytest.fixture
    def started_at(self, shop: Deployment) -> datetime:
        shop.set(SHADOW_SHARE=1.0, SHADOW_MINUTES=60, CANARY_SHARE=0.5, CANARY_HOURS=24)
        started_at = promotion.start_rollout("2", shop.folders["2"], "somebody")
        assert started_at is not None
        return started_at

    def _modes(self, shop: Deployment) -> list[str | None]:
        staged = [AdminClient(url, TOKEN).models()["staged"] for url in shop.urls]
        return [found and found["terms"]["mode"] for found in staged]

    def test_it_passes_its_phases_and_ends_with_a_finding(self, shop: Deployment, started_at: datetime) -> None:
        folder = shop.folders["2"]
        assert self._modes(shop) == ["shadow"] * 3
        again = promotion.start_rollout("2", folder, "somebody")  # continues
        assert again is not None
        assert again < started_at + timedelta(seconds=1)
        assert promotion.check_rollout(folder, started_at) is None
        assert promotion.check_rollout(folder, started_at - timedelta(hours=2)) is None
        assert self._modes(shop) == ["canary"] * 3
        findings = promotion.check_rollout(folder, started_at - timedelta(hours=26))
        assert findings is not None
        assert "not tested" in findings[-1]
        assert shop.serving() == ["1", "1", "1"]
        shop.promote("2")
        assert (shop.serving(), self._modes(shop)) == (["2", "2", "2"], [None] * 3)

    def test_a_first_model_has_no_rollout(self, shop: Deployment) -> None:
        shop.set(CANARY_SHARE=0.5)
        with shop.warehouse.begin() as connection:
            connection.execute(text("delete from promotions"))
        started_at = promotion.start_rollout("2", shop.folders["2"], "somebody")
        assert started_at is None
        assert promotion.check_rollout(shop.folders["2"], started_at) == [
            "there was no trained champion to compare with"
        ]

    def test_an_endpoint_that_lost_the_challenger_rejoins(self, shop: Deployment, started_at: datetime) -> None:
        AdminClient(shop.urls[1], TOKEN).discard_staged()
        assert promotion.check_rollout(shop.folders["2"], started_at) is None
        assert self._modes(shop) == ["shadow"] * 3

    def test_it_continues_without_an_unavailable_endpoint(self, shop: Deployment, started_at: datetime) -> None:
        shop.use_endpoints(*shop.urls, _unavailable_url())
        assert promotion.check_rollout(shop.folders["2"], started_at) is None
        assert self._modes(shop) == ["shadow"] * 3

    def test_a_pause_stops_its_traffic_and_makes_the_phase_longer(self, shop: Deployment, started_at: datetime) -> None:
        folder = shop.folders["2"]
        assert promotion.pause_rollout("a holiday", "Ada") == "2"
        assert (self._modes(shop), shop.last.decision, shop.last.approved_by) == (["held"] * 3, "paused", "Ada")
        assert promotion.check_rollout(folder, started_at) is None
        assert self._modes(shop) == ["held"] * 3
        with pytest.raises(InputError, match="No rollout is running"):
            promotion.pause_rollout("again", "Ada")
        with shop.warehouse.begin() as connection:  # ninety minutes ago
            move = "update promotions set decided_at = decided_at - interval '90 minutes'"
            connection.execute(text(move))
        assert promotion.resume_rollout("back", "Ada") == "2"
        assert self._modes(shop) == ["shadow"] * 3
        assert promotion.check_rollout(folder, started_at - timedelta(minutes=90)) is None
        assert self._modes(shop) == ["shadow"] * 3  # an hour of shadow traffic, without the pause
        with pytest.raises(InputError, match="No rollout is paused"):
            promotion.resume_rollout("again", "Ada")

    def test_reconciling_does_not_interfere(self, shop: Deployment, started_at: datetime) -> None:
        assert promotion.reconcile().changes == []
        assert self._modes(shop) == ["shadow"] * 3

    def test_another_version_is_refused_meanwhile(self, shop: Deployment, started_at: datetime) -> None:
        with pytest.raises(PushFailed, match="version 2 is in a rollout here"):
            shop.promote("3")
        assert (shop.serving(), self._modes(shop)) == (["1", "1", "1"], ["shadow"] * 3)
        assert promotion.check_rollout(shop.folders["2"], started_at) is None

    def test_a_rollback_ends_it(self, shop: Deployment, started_at: datetime) -> None:
        assert promotion.roll_back("enough") == "1"
        assert (self._modes(shop), shop.last.decision) == ([None] * 3, "withdrawn")
        with pytest.raises(RolloutFailed, match="has ended"):
            promotion.check_rollout(shop.folders["2"], started_at)

    def test_an_alarm_on_the_champion_ends_it_and_rolls_back(self, shop: Deployment) -> None:
        shop.promote("3")
        shop.set(SHADOW_SHARE=1.0, SHADOW_MINUTES=60)
        promotion.start_rollout("2", shop.folders["2"], "somebody")
        _insert_alarm(shop, "3", "roll_back")
        assert monitoring.react().rolled_back_to == "1"
        assert (shop.serving(), self._modes(shop)) == (["1", "1", "1"], [None] * 3)
        assert [(row.decision, row.model_version) for row in shop.decisions()[-2:]] == [
            ("withdrawn", "2"),
            ("rolled_back", "1"),
        ]

    def test_a_rollback_of_the_challenger_keeps_the_champion(self, shop: Deployment, started_at: datetime) -> None:
        assert promotion.roll_back("enough", bad_version="2") == "1"
        assert (shop.serving(), self._modes(shop), shop.last.decision) == (["1"] * 3, [None] * 3, "withdrawn")
        before = len(shop.decisions())
        assert promotion.roll_back("enough", bad_version="2") == "1"  # already withdrawn
        assert len(shop.decisions()) == before

    def test_a_significant_loss_of_clicks_withdraws_it(self, shop: Deployment, started_at: datetime) -> None:
        started_at -= timedelta(hours=2)
        _insert_impressions(shop.warehouse, "1", people=400, acting=120)
        _insert_impressions(shop.warehouse, "2", people=400, acting=40)
        with pytest.raises(RolloutFailed, match="40 of 400 visitors acted on lists of version 2, 120 of 400"):
            promotion.check_rollout(shop.folders["2"], started_at)
        assert (shop.serving(), self._modes(shop)) == (["1", "1", "1"], [None] * 3)
        assert (shop.last.decision, shop.last.model_version) == ("withdrawn", "2")

    def test_an_abandoned_one_is_ended_by_reconciling(self, shop: Deployment, started_at: datetime) -> None:
        with shop.warehouse.begin() as connection:
            connection.execute(text("update promotions set decided_at = now() - interval '9 days'"))
        promotion.reconcile()
        assert self._modes(shop) == [None] * 3
        assert "withdrawn" in [row.decision for row in shop.decisions()]


_INSERT_IMPRESSIONS = """
insert into events (
    event_id, event_key, user_id, item_id, event_type, event_time, request_id, properties, source, batch, content
)
select id, hashtextextended(id, 0), :version || '-' || n, 'i1', type, :at, 'r' || :version || '-' || n,
    jsonb_build_object('model_version', cast(:version as text)), 't', 0, 0
from generate_series(1, :people) as n
cross join lateral (values ('impression', 0), ('purchase', 1)) as kinds (type, kind)
cross join lateral (select :version || '-' || n || '-' || type as id) as ids
where kind = 0 or n <= :acting
"""


def _insert_impressions(warehouse: Engine, version: str, people: int, acting: int) -> None:
    """Inserts visitors with an impression of a version a minute ago, some with a purchase."""
    at = datetime.now(UTC) - timedelta(minutes=1)
    with warehouse.begin() as connection:
        connection.execute(text("select create_event_month(date_trunc('month', cast(:at as date))::date)"), {"at": at})
        connection.execute(
            text(_INSERT_IMPRESSIONS), {"version": version, "at": at, "people": people, "acting": acting}
        )


def _insert_alarm(shop: Deployment, version: str, action: str, rule: str = "loses") -> None:
    with shop.warehouse.begin() as connection:
        connection.execute(
            text(
                "insert into alarms (rule, model_version, action, explanation, evidence)"
                " values (:rule, :version, :action, '1% against 3%', '{}')"
            ),
            {"rule": rule, "version": version, "action": action},
        )


def test_an_alarm_rolls_back_once_and_the_record_says_why(shop: Deployment) -> None:
    shop.promote("2")
    _insert_alarm(shop, "2", "roll_back")
    found = monitoring.react()
    assert (found.rolled_back_to, found.retrain) == ("1", [])
    assert shop.serving() == ["1", "1", "1"]
    assert shop.last.decision == "rolled_back"
    assert shop.last.reasons == ["loses: 1% against 3%"]
    assert _alias(CHAMPION) == "1"
    assert monitoring.react().rolled_back_to is None
    assert shop.serving() == ["1", "1", "1"]


def test_an_alarm_on_a_replaced_version_rolls_nothing_back(shop: Deployment) -> None:
    shop.promote("2")
    _insert_alarm(shop, "1", "roll_back")
    assert monitoring.react().rolled_back_to is None
    assert shop.serving() == ["2", "2", "2"]


def test_the_first_version_stays_without_a_previous_version(shop: Deployment) -> None:
    _insert_alarm(shop, "1", "roll_back")
    assert monitoring.react().rolled_back_to is None
    assert shop.serving() == ["1", "1", "1"]
    with shop.warehouse.connect() as connection:
        assert "no previous version" in str(connection.scalar(text("select outcome from alarms")))


def test_an_alarm_requests_retraining_until_it_is_marked(shop: Deployment) -> None:
    _insert_alarm(shop, "1", "retrain")
    first = monitoring.react()  # as if the caller was killed
    assert "1% against 3%" in first.retrain_reason
    found = monitoring.react()
    assert found == first
    monitoring.mark_retraining(found.alarm_ids)
    assert not monitoring.react().retrain


def test_a_partial_rollback_requests_no_retraining(shop: Deployment, tmp_path: Path) -> None:
    with running_endpoint(tmp_path / "fourth") as fourth:
        shop.use_endpoints(*shop.urls, fourth)
        shop.promote("2")
    _insert_alarm(shop, "2", "roll_back")
    _insert_alarm(shop, "2", "retrain", rule="falls")
    with pytest.raises(UnavailableError, match="not everywhere"):
        monitoring.react()
    again = monitoring.react()
    assert (again.rolled_back_to, again.retrain) == (None, [])
    assert (shop.serving(), shop.last.decision) == (["1", "1", "1"], "rolled_back")
    with shop.warehouse.connect() as connection:
        assert connection.scalar(text("select count(*) from alarms where acted_at is null")) == 0


def test_each_alarm_is_notified_once_after_a_failed_attempt(shop: Deployment) -> None:
    _insert_alarm(shop, "1", "hold_promotions")
    assert monitoring.react().retrain == []
    assert monitoring.notify(lambda alarm: False) == 0
    with shop.warehouse.begin() as connection:
        connection.execute(text("update alarms set closed_at = now()"))  # the alarm closes meanwhile
    received: list[str] = []

    def send(alarm: Alarm) -> bool:
        received.append(alarm.explanation)
        return True

    for _ in range(2):
        monitoring.notify(send)
    assert received == ["1% against 3%"]


def test_an_untrained_version_replaces_no_trained_one(shop: Deployment) -> None:
    served = read_state(shop.warehouse).served
    untrained = replace(read_bundle(shop.folders["2"]), is_trained=False)
    with pytest.raises(InputError, match="Version 2 was not trained, and a trained version serves"):
        require_trained("2", untrained, served)
    require_trained("2", untrained, [])
    require_trained("2", read_bundle(shop.folders["2"]), served)
    gone = [served[-1]._replace(run_id="0" * 32)]
    with pytest.raises(InputError, match="was not trained, and"):  # a deleted run counts as trained
        require_trained("2", untrained, gone)


def test_a_rejection_of_a_version_that_was_promoted_meanwhile_changes_nothing(shop: Deployment) -> None:
    shop.promote("2")
    shop.promote("1")
    before = len(shop.decisions())
    promotion.reject("2", ["good"], "somebody else")
    assert len(shop.decisions()) == before
    promotion.reject("3", ["good"], "somebody else")
    assert shop.last.reasons == ["rejected by somebody else", "good"]


def test_the_first_trained_version_needs_no_rollout(shop: Deployment) -> None:
    client().log_param(client().get_model_version(REGISTERED_MODEL, "3").run_id, "is_trained", False)
    shop.promote("3")
    shop.set(SHADOW_SHARE=0.5)
    assert promotion.start_rollout("2", shop.folders["2"], "somebody") is None
    assert promotion.check_rollout(shop.folders["2"], None) == ["there was no trained champion to compare with"]
    assert shop.serving() == ["3", "3", "3"]
