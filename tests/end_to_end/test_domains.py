"""Worked examples of other domains, from raw log to endpoint, compared with recent popularity."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.steps import features, ingestion, promotion, training
from recsys_tasks.warehouse import engine
from tests.conftest import clear_cached_settings, database, fresh_warehouse
from tests.integration.endpoints import TOKEN, running_endpoint

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
BEFORE_LAST_DAY, END = "2026-06-13T23:59:59Z", "2026-06-14T23:59:00Z"
RECIPE = """
[network]
embedding_dim = 64
num_heads = 2
num_decoder_layers = 1

[training]
batch_tokens = 512
"""


class Domain(NamedTuple):
    """A worked example: its folder in the documentation, and the names of its two mappings and files."""

    name: str
    items: str
    events: str


NEWS, SOCIAL = Domain("news", "articles", "reads"), Domain("social", "posts", "reactions")


class DomainEndpoint(NamedTuple):
    """An endpoint that serves the model of a domain, and the folder of its log."""

    domain: Domain
    url: str
    log: Path

    def recommend(self, **request: Any) -> list[str]:
        """Returns the items of a list."""
        answer = httpx.post(f"{self.url}/v1/recommendations", json={"k": 10, **request}).raise_for_status()
        return [item["item_id"] for item in answer.json()["items"]]

    def read_items(self, name: str = "") -> dict[str, dict[str, Any]]:
        """Returns the raw items by id."""
        lines = (self.log / f"{self.domain.items}{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return {item["id"]: item for item in map(json.loads, lines)}


@pytest.fixture(scope="module", params=[NEWS, SOCIAL], ids=lambda domain: domain.name)
def served(
    request: pytest.FixtureRequest, postgres: str, tracking_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DomainEndpoint]:
    domain = request.param
    home, port = tmp_path_factory.mktemp(domain.name), find_free_port()
    folder, url = EXAMPLES / domain.name, f"http://127.0.0.1:{port}"
    subprocess.run([sys.executable, EXAMPLES / "generate.py", domain.name, home / "log"], check=True)
    with (
        fresh_warehouse(postgres) as warehouse,
        database(postgres, f"mlflow_{uuid.uuid4().hex[:12]}", tracking_template) as registry,
        running_endpoint(home / "endpoint", TOKEN, port),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(home)
        (home / "recipe.toml").write_text(RECIPE, encoding="utf-8")
        for name, value in {
            "HOME": home,
            "WAREHOUSE_URL": warehouse.url.render_as_string(hide_password=False),
            "MLFLOW_TRACKING_URI": registry.url.render_as_string(hide_password=False),
            "ENDPOINT_URLS": json.dumps([url]),
            "ADMIN_TOKEN": TOKEN,
            # The same training on any machine: the epochs limit it, not the time.
            "TRAINING_SECONDS": 600,
            "MAX_TRAINING_EPOCHS": 6,
            "RECIPE": home / "recipe.toml",
            "TEXT_ENCODER": "none",
            "EVENT_WEIGHTS": folder / "event_weights.toml",
        }.items():
            patch.setenv(f"RECSYS_{name}", str(value))
        clear_cached_settings()
        for name in (domain.items, domain.events):
            [report] = ingestion.ingest_files(str(folder / f"{name}.toml"), [str(home / "log" / f"{name}.jsonl")])
            assert (report.quarantined, report.duplicates) == (0, 0)
        features.build_features()
        run_id = training.train_model()
        training.evaluate_run(run_id)
        version, bundle = promotion.build(training.register_run(run_id))
        decision = promotion.judge(version, bundle)
        assert decision.promote, decision.reasons
        promotion.activate(version, bundle, decision.reasons, promotion.AUTOMATIC, decision.as_dict())
        yield DomainEndpoint(domain, url, home / "log")
        engine().dispose()
    clear_cached_settings()


def test_lists_have_only_live_items_and_those_of_one_author_if_asked(served: DomainEndpoint) -> None:
    items = served.read_items()
    ends = {name: item.get("expires_at") or item["ends_at"] for name, item in items.items()}
    listed = served.recommend(user_id="r1", time=BEFORE_LAST_DAY)
    assert len(listed) == 10
    assert all(ends[name] >= BEFORE_LAST_DAY for name in listed)
    author = items[listed[0]]["author"]
    brand = author["name"] if isinstance(author, dict) else author
    of_author = served.recommend(time=BEFORE_LAST_DAY, filter={"field": "brand", "one_of": [brand]})
    assert of_author
    assert all(items[name]["author"] == author for name in of_author)


def test_lists_of_the_last_day_beat_the_recent_popularity_baseline(served: DomainEndpoint, tmp_path: Path) -> None:
    domain, folder = served.domain, EXAMPLES / served.domain.name
    items, events = (str(folder / f"{name}.toml") for name in (domain.items, domain.events))
    command = [sys.executable, "-m", "benchmarks.replay", "--endpoint", served.url, "--json", tmp_path / "out.json"]
    command += ["--items", items, served.log / f"{domain.items}-last-day.jsonl"]
    command += ["--known-items", served.log / f"{domain.items}.jsonl"]
    command += ["--events", events, served.log / f"{domain.events}-last-day.jsonl"]
    command += ["--earlier-events", served.log / f"{domain.events}.jsonl", "--weights", folder / "event_weights.toml"]
    subprocess.run(
        [str(part) for part in command], check=True, cwd=ROOT, env={**os.environ, "RECSYS_ADMIN_TOKEN": TOKEN}
    )
    recall = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["recall"]
    assert recall.pop("endpoint") > 1.5 * max(recall.values())
    newest = served.read_items("-last-day")
    assert set(served.recommend(time=END)) & set(newest)  # published during the replay
