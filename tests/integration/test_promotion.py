"""Promotions with a real registry, warehouse and three endpoints: the new model serves everywhere, or the old one does.

And the record says which, and why.
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
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, Row, text

from recsys_tasks.client.admin import AdminClient
from recsys_tasks.client.fleet import PushFailed
from recsys_tasks.engine.bundle import DECODER, MANIFEST, bundle_digest, seal
from recsys_tasks.errors import ConfigurationError, InputError, UnavailableError
from recsys_tasks.monitoring.alarms import Alarm
from recsys_tasks.names import CHAMPION, PREVIOUS, REGISTERED_MODEL
from recsys_tasks.promotion.deployment_record import (
    PROMOTED,
    REFUSED,
    DeployedVersion,
    deployment_lock,
    insert_decision,
)
from recsys_tasks.promotion.rollout import RolloutFailed
from recsys_tasks.registry import versions
from recsys_tasks.registry.tracking import client
from recsys_tasks.settings import settings
from recsys_tasks.stack.environment import any_free_port
from recsys_tasks.steps import monitoring, promotion
from recsys_tasks.warehouse import database_url, engine
from tests.conftest import database, fresh_warehouse
from tests.integration.endpoints import TOKEN, running_endpoint, served_versions


@dataclass(frozen=True)
class Shop:
    """Three endpoints, and the bundles of registered versions 1, 2 and 3 where promotions look for them."""

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

    def talk_to(self, *urls: str) -> None:
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
        for name, value in {
            "HOME": home,
            "WAREHOUSE_URL": warehouse.url.render_as_string(hide_password=False),
            "MLFLOW_TRACKING_URI": registry.url.render_as_string(hide_password=False),
            "ADMIN_TOKEN": TOKEN,
        }.items():
            patch.setenv(f"RECSYS_{name}", str(value))
        _forget_the_environment()
        urls = [stack.enter_context(running_endpoint(home / f"endpoint{number}")) for number in range(3)]
        folders = {number: _registered(home, number, bundles[int(number) % 2]) for number in ("1", "2", "3")}
        yield warehouse, urls, folders
        engine().dispose()
    _forget_the_environment()


def _registered(home: Path, number: str, bundle: Path) -> Path:
    """A registered version and its bundle."""
    if number == "1":
        client().create_registered_model(REGISTERED_MODEL)
    run = client().create_run(client().create_experiment(f"of version {number}")).info.run_id
    found = client().create_model_version(REGISTERED_MODEL, f"runs:/{run}/model", run, tags={"snapshot_id": "s"})
    assert str(found.version) == number
    building = home / "building"
    shutil.copytree(bundle, building)
    manifest = json.loads((building / MANIFEST).read_text(encoding="utf-8"))
    seal(building, {**_lineage(manifest), "model_version": number, "run_id": run})
    (home / "bundles").mkdir(exist_ok=True)
    return building.rename(home / "bundles" / bundle_digest(building))


def _lineage(manifest: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in manifest.items() if name not in ("files", "format")}


def _forget_the_environment() -> None:
    for cached in (settings, database_url, engine):
        cached.cache_clear()


@pytest.fixture
def shop(world: tuple[Engine, list[str], dict[str, Path]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Version 1 serves everywhere, and nothing was decided before that."""
    warehouse, urls, folders = world
    found = Shop(warehouse, urls, folders, monkeypatch)
    found.talk_to(*urls)
    promotion.deployment().fleet.discard()
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


def _away() -> str:
    return f"http://127.0.0.1:{any_free_port()}"


def test_a_promoted_version_serves_everywhere_and_the_registry_and_the_record_say_so(shop: Shop) -> None:
    shop.promote("2")
    assert shop.serving() == ["2", "2", "2"]
    assert (_alias(CHAMPION), _alias(PREVIOUS)) == ("2", "1")
    assert (shop.last.decision, shop.last.model_version, shop.last.approved_by) == ("promoted", "2", "somebody")
    tags = client().get_model_version(REGISTERED_MODEL, "2").tags
    assert tags["approved_by"] == "somebody"
    assert tags["serving"].startswith("champion since 20")
    before = len(shop.decisions())
    shop.promote("2")  # again: nothing to do, nothing to write down
    assert len(shop.decisions()) == before


def test_a_refusal_that_is_recorded_again_stands_there_once_and_other_decisions_each_time(warehouse: Engine) -> None:
    bundle = DeployedVersion("2", "run", "snapshot", "digest")
    for reasons in (["too slow"], ["too slow"], ["too slow", "too old"]):
        insert_decision(warehouse, bundle, REFUSED, reasons, evidence={"findings": []})
        insert_decision(warehouse, bundle._replace(bundle_digest=None), REFUSED, reasons)
    insert_decision(warehouse, bundle._replace(bundle_digest="another"), REFUSED, ["too slow"])
    for _ in range(2):  # what serves follows from these, so that each counts
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


def test_a_rollback_brings_the_version_before_back_everywhere(shop: Shop) -> None:
    shop.promote("2")
    shop.promote("3")
    assert promotion.roll_back("it recommends nothing but socks", "somebody") == "2"
    assert shop.serving() == ["2", "2", "2"]
    assert (_alias(CHAMPION), _alias(PREVIOUS)) == ("2", "1")
    assert (shop.last.decision, shop.last.reasons) == ("rolled_back", ["it recommends nothing but socks"])
    assert "socks" in client().get_model_version(REGISTERED_MODEL, "3").tags["serving"]
    assert promotion.roll_back() == "1"  # endpoints keep one bundle of before; the pipeline has the others
    assert shop.serving() == ["1", "1", "1"]
    with pytest.raises(InputError, match="No version was promoted before 1"):
        promotion.roll_back()


def test_with_one_of_three_endpoints_away_the_old_version_serves_on(shop: Shop) -> None:
    away = _away()
    shop.talk_to(*shop.urls[:2], away)
    with pytest.raises(UnavailableError, match=away):
        shop.promote("2")
    assert shop.serving() == ["1", "1", "1"]
    assert _alias(CHAMPION) == "1"
    assert (shop.last.decision, shop.last.model_version) == ("failed", "2")
    assert away in shop.last.reasons[0]


def test_a_rollback_goes_as_far_as_it_can_and_reconciling_does_the_rest(shop: Shop, tmp_path: Path) -> None:
    port = any_free_port()
    with running_endpoint(tmp_path / "fourth", port=port) as fourth:
        shop.talk_to(*shop.urls, fourth)
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


def test_with_the_registry_away_nothing_is_changed_and_the_record_says_why(shop: Shop) -> None:
    shop.set(MLFLOW_TRACKING_URI=_away())
    with pytest.raises(UnavailableError, match="MLflow does not answer"):
        shop.promote("2")
    assert shop.serving() == ["1", "1", "1"]
    assert (shop.last.decision, shop.last.model_version) == ("failed", "2")
    assert "MLflow does not answer" in shop.last.reasons[0]


def test_a_rollback_needs_no_registry_and_reconciling_tells_it_later(shop: Shop) -> None:
    shop.promote("2")
    tracking = os.environ["RECSYS_MLFLOW_TRACKING_URI"]
    shop.set(MLFLOW_TRACKING_URI=_away())
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
def test_a_wrong_or_missing_token_changes_nothing(shop: Shop, token: str | None) -> None:
    if token is None:
        shop.patch.delenv("RECSYS_ADMIN_TOKEN")
    else:
        shop.patch.setenv("RECSYS_ADMIN_TOKEN", token)
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="RECSYS_ADMIN_TOKEN"):
        shop.promote("2")
    assert shop.serving() == ["1", "1", "1"]
    assert (shop.last.decision, shop.last.model_version) == ("failed", "2")


def test_a_promotion_killed_between_staging_and_activation_is_done_by_trying_again(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes requests and never answers
        shop.talk_to(*shop.urls, f"http://127.0.0.1:{deaf.getsockname()[1]}")
        program = (
            "import sys; from pathlib import Path; from recsys_tasks.steps import promoting;"
            " promotion.activate('2', Path(sys.argv[1]))"
        )
        promotion = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program, str(shop.folders["2"])])
        clients = [AdminClient(url, TOKEN) for url in shop.urls]
        while not all(client.models()["staged"] for client in clients):
            assert promotion.poll() is None
        promotion.send_signal(signal.SIGKILL)
        promotion.wait()
    assert shop.serving() == ["1", "1", "1"]
    shop.talk_to(*shop.urls)
    shop.promote("2")
    assert shop.serving() == ["2", "2", "2"]
    assert [row.decision for row in shop.decisions()] == ["promoted", "promoted"]


def test_a_promotion_killed_half_way_through_activation_is_taken_back_or_done_by_trying_again(shop: Shop) -> None:
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


def test_what_was_activated_before_a_kill_is_taken_back_where_trying_again_fails(shop: Shop) -> None:
    digest = bundle_digest(shop.folders["2"])
    promotion.deployment().fleet.stage(shop.folders["2"], digest)
    AdminClient(shop.urls[0], TOKEN).change_staged(digest, "active")
    leaving = _away()
    shop.talk_to(*shop.urls, leaving)
    with pytest.raises(UnavailableError, match=leaving):
        shop.promote("2")
    assert shop.serving() == ["1", "1", "1"]


def test_two_promotions_at_once_come_one_after_the_other(shop: Shop) -> None:
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


def test_while_a_promotion_is_under_way_reconciling_leaves_it_alone(shop: Shop) -> None:
    with deployment_lock(shop.warehouse), pytest.raises(UnavailableError, match="under way"):
        promotion.reconcile()


def test_an_alias_moved_by_hand_goes_back_to_what_serves(shop: Shop) -> None:
    client().set_registered_model_alias(REGISTERED_MODEL, CHAMPION, "3")
    assert promotion.reconcile().changes == ["alias champion from version 3 to 1"]
    assert _alias(CHAMPION) == "1"
    assert shop.last.decision == "reconciled"
    assert promotion.reconcile().changes == []


def test_a_bundle_beyond_a_limit_is_activated_nowhere(shop: Shop, tmp_path: Path) -> None:
    strict = tmp_path / "gate.toml"
    rules = "[baselines]\nnames=[]\nmetrics=[]\n[champion]\nmetric='mrr_20'\nconfidence=0.95\nleast_gain=0.0\n"
    strict.write_text(rules + "[limits]\nmemory_megabytes = 0.0001\n")
    shop.set(GATE_RULES=strict)
    with pytest.raises(PushFailed, match=r"memory_megabytes at most 0\.0001"):
        shop.promote("2")
    assert shop.serving() == ["1", "1", "1"]
    assert all(AdminClient(url, TOKEN).models()["staged"] is None for url in shop.urls)


def test_a_flipped_bit_between_building_and_pushing_is_found(shop: Shop, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(shop.folders["2"], broken)
    content = bytearray((broken / DECODER).read_bytes())
    content[len(content) // 2] ^= 1
    (broken / DECODER).write_bytes(content)
    with pytest.raises(Exception, match=r"decoder\.onnx does not match its checksum"):
        promotion.activate("2", broken)
    assert shop.serving() == ["1", "1", "1"]


class TestTrial:
    """In the shadow for an hour, then a canary for a day."""

    @pytest.fixture
    def began(self, shop: Shop) -> datetime:
        shop.set(SHADOW_SHARE=1.0, SHADOW_MINUTES=60, CANARY_SHARE=0.5, CANARY_HOURS=24)
        began = promotion.start_rollout("2", shop.folders["2"], "somebody")
        assert began is not None
        return began

    def _modes(self, shop: Shop) -> list[str | None]:
        staged = [AdminClient(url, TOKEN).models()["staged"] for url in shop.urls]
        return [found and found["terms"]["mode"] for found in staged]

    def test_it_goes_through_its_phases_and_ends_with_a_finding(self, shop: Shop, began: datetime) -> None:
        folder = shop.folders["2"]
        assert self._modes(shop) == ["shadow"] * 3
        again = promotion.start_rollout("2", folder, "somebody")  # it goes on
        assert again is not None
        assert again < began + timedelta(seconds=1)
        assert promotion.check_rollout(folder, began) is None
        assert promotion.check_rollout(folder, began - timedelta(hours=2)) is None
        assert self._modes(shop) == ["canary"] * 3
        findings = promotion.check_rollout(folder, began - timedelta(hours=26))
        assert findings is not None
        assert "not judged" in findings[-1]
        assert shop.serving() == ["1", "1", "1"]
        shop.promote("2")
        assert (shop.serving(), self._modes(shop)) == (["2", "2", "2"], [None] * 3)

    def test_a_first_model_has_nothing_to_be_tried_beside(self, shop: Shop) -> None:
        shop.set(CANARY_SHARE=0.5)
        with shop.warehouse.begin() as connection:
            connection.execute(text("delete from promotions"))
        began = promotion.start_rollout("2", shop.folders["2"], "somebody")
        assert began is None
        assert promotion.check_rollout(shop.folders["2"], began) == ["there was no champion to be tried beside"]

    def test_an_endpoint_that_lost_it_takes_part_again(self, shop: Shop, began: datetime) -> None:
        AdminClient(shop.urls[1], TOKEN).discard_staged()
        assert promotion.check_rollout(shop.folders["2"], began) is None
        assert self._modes(shop) == ["shadow"] * 3

    def test_with_an_endpoint_away_it_goes_on_at_the_others(self, shop: Shop, began: datetime) -> None:
        shop.talk_to(*shop.urls, _away())
        assert promotion.check_rollout(shop.folders["2"], began) is None
        assert self._modes(shop) == ["shadow"] * 3

    def test_reconciling_leaves_it_alone(self, shop: Shop, began: datetime) -> None:
        assert promotion.reconcile().changes == []
        assert self._modes(shop) == ["shadow"] * 3

    def test_another_version_has_to_wait(self, shop: Shop, began: datetime) -> None:
        with pytest.raises(PushFailed, match="version 2 is on trial here"):
            shop.promote("3")
        assert (shop.serving(), self._modes(shop)) == (["1", "1", "1"], ["shadow"] * 3)
        assert promotion.check_rollout(shop.folders["2"], began) is None

    def test_a_rollback_ends_it(self, shop: Shop, began: datetime) -> None:
        assert promotion.roll_back("enough") == "1"
        assert (self._modes(shop), shop.last.decision) == ([None] * 3, "withdrawn")
        with pytest.raises(RolloutFailed, match="not on trial any more"):
            promotion.check_rollout(shop.folders["2"], began)

    def test_an_alarm_about_what_serves_ends_it_and_takes_the_version_back(self, shop: Shop) -> None:
        shop.promote("3")
        shop.set(SHADOW_SHARE=1.0, SHADOW_MINUTES=60)
        promotion.start_rollout("2", shop.folders["2"], "somebody")
        _alarm(shop, "3", "roll_back")
        assert monitoring.react().rolled_back_to == "1"
        assert (shop.serving(), self._modes(shop)) == (["1", "1", "1"], [None] * 3)
        assert [(row.decision, row.model_version) for row in shop.decisions()[-2:]] == [
            ("withdrawn", "2"),
            ("rolled_back", "1"),
        ]

    def test_a_rollback_of_what_is_on_trial_leaves_what_serves(self, shop: Shop, began: datetime) -> None:
        assert promotion.roll_back("enough", bad_version="2") == "1"
        assert (shop.serving(), self._modes(shop), shop.last.decision) == (["1"] * 3, [None] * 3, "withdrawn")
        before = len(shop.decisions())
        assert promotion.roll_back("enough", bad_version="2") == "1"  # it is gone already
        assert len(shop.decisions()) == before

    def test_a_significant_loss_of_clicks_withdraws_it(self, shop: Shop, began: datetime) -> None:
        began -= timedelta(hours=2)
        _shown(shop.warehouse, "1", people=400, acting=120)
        _shown(shop.warehouse, "2", people=400, acting=40)
        with pytest.raises(RolloutFailed, match="40 of 400 people acted on what version 2 showed them, 120 of 400"):
            promotion.check_rollout(shop.folders["2"], began)
        assert (shop.serving(), self._modes(shop)) == (["1", "1", "1"], [None] * 3)
        assert (shop.last.decision, shop.last.model_version) == ("withdrawn", "2")

    def test_one_that_nobody_looks_after_is_ended_by_reconciling(self, shop: Shop, began: datetime) -> None:
        with shop.warehouse.begin() as connection:
            connection.execute(text("update promotions set decided_at = now() - interval '9 days'"))
        promotion.reconcile()
        assert self._modes(shop) == [None] * 3
        assert "withdrawn" in [row.decision for row in shop.decisions()]


_SHOWN = """
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


def _shown(warehouse: Engine, version: str, people: int, acting: int) -> None:
    """People to whom a version showed something a minute ago, some of whom bought it."""
    at = datetime.now(UTC) - timedelta(minutes=1)
    with warehouse.begin() as connection:
        connection.execute(text("select create_event_month(date_trunc('month', cast(:at as date))::date)"), {"at": at})
        connection.execute(text(_SHOWN), {"version": version, "at": at, "people": people, "acting": acting})


def _alarm(shop: Shop, version: str, action: str, rule: str = "loses") -> None:
    with shop.warehouse.begin() as connection:
        connection.execute(
            text(
                "insert into alarms (rule, model_version, action, explanation, evidence)"
                " values (:rule, :version, :action, '1% against 3%', '{}')"
            ),
            {"rule": rule, "version": version, "action": action},
        )


def test_an_alarm_takes_the_version_back_once_and_the_record_says_why(shop: Shop) -> None:
    shop.promote("2")
    _alarm(shop, "2", "roll_back")
    found = monitoring.react()
    assert (found.rolled_back_to, found.retrain) == ("1", [])
    assert shop.serving() == ["1", "1", "1"]
    assert shop.last.decision == "rolled_back"
    assert shop.last.reasons == ["loses: 1% against 3%"]
    assert _alias(CHAMPION) == "1"
    assert monitoring.react().rolled_back_to is None
    assert shop.serving() == ["1", "1", "1"]


def test_an_alarm_about_a_version_that_serves_no_more_takes_nothing_back(shop: Shop) -> None:
    shop.promote("2")
    _alarm(shop, "1", "roll_back")
    assert monitoring.react().rolled_back_to is None
    assert shop.serving() == ["2", "2", "2"]


def test_the_first_version_stays_where_there_is_nothing_to_go_back_to(shop: Shop) -> None:
    _alarm(shop, "1", "roll_back")
    assert monitoring.react().rolled_back_to is None
    assert shop.serving() == ["1", "1", "1"]
    with shop.warehouse.connect() as connection:
        assert "no version before it" in str(connection.scalar(text("select outcome from alarms")))


def test_an_alarm_asks_for_a_training_until_that_was_asked_for(shop: Shop) -> None:
    _alarm(shop, "1", "retrain")
    lost = monitoring.react()  # whoever called was killed
    assert "1% against 3%" in lost.retrain_reason
    found = monitoring.react()
    assert found == lost
    monitoring.mark_retraining(found.alarm_ids)
    assert not monitoring.react().retrain


def test_a_rollback_that_did_not_come_everywhere_is_made_no_training_of(shop: Shop, tmp_path: Path) -> None:
    with running_endpoint(tmp_path / "fourth") as fourth:
        shop.talk_to(*shop.urls, fourth)
        shop.promote("2")
    _alarm(shop, "2", "roll_back")
    _alarm(shop, "2", "retrain", rule="falls")
    with pytest.raises(UnavailableError, match="not everywhere"):
        monitoring.react()
    again = monitoring.react()
    assert (again.rolled_back_to, again.retrain) == (None, [])
    assert (shop.serving(), shop.last.decision) == (["1", "1", "1"], "rolled_back")
    with shop.warehouse.connect() as connection:
        assert connection.scalar(text("select count(*) from alarms where acted_at is null")) == 0


def test_of_each_alarm_somebody_is_told_though_at_first_nobody_hears(shop: Shop) -> None:
    _alarm(shop, "1", "hold")
    assert monitoring.react().retrain == []
    assert monitoring.notify(lambda alarm: False) == 0
    with shop.warehouse.begin() as connection:
        connection.execute(text("update alarms set closed_at = now()"))  # meanwhile it holds no more
    heard: list[str] = []

    def send(alarm: Alarm) -> bool:
        heard.append(alarm.explanation)
        return True

    for _ in range(2):
        monitoring.notify(send)
    assert heard == ["1% against 3%"]
