"""The dashboard and the alert rules name metrics and labels that an endpoint exposes."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from recsys_tasks.engine.engine import Answer, Timings
from recsys_tasks.serving.event_log import EventLog, LogRetention
from recsys_tasks.serving.metrics import Metrics
from recsys_tasks.serving.overload import QueueEstimator

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "endpoints.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS += [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]
# Labels that Prometheus adds.
SCRAPED = {"instance", "job"}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of the labels of each sample that an endpoint exposes, once each metric has a value."""
    metrics = Metrics(
        EventLog(tmp_path_factory.mktemp("log") / "journal", LogRetention(1, 1), lambda: None), QueueEstimator(1)
    )
    metrics.observe_request("/v1/recommendations", 200, 0.01)
    metrics.observe_list(Answer([], None, timings=Timings(True, 0.1, 0.1, 0.1)))
    metrics.count_event("view")
    metrics.count_rejected_request("overload")
    labels: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels[sample.name] |= set(sample.labels)
    return labels


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_exists(expression: str, exposed: dict[str, set[str]]) -> None:
    named = re.findall(r"\b(recsys_\w+|up)(?:\{([^}]*)\})?", expression)
    assert named
    known = set(SCRAPED)
    for name, conditions in named:
        assert name == "up" or name in exposed, f"no endpoint has {name}"
        known |= exposed.get(name, set())
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", conditions))
        assert used <= SCRAPED | exposed.get(name, set()), f"{name} has no labels {used}"
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= known, expression


def test_every_alert_says_what_to_do() -> None:
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
            assert rule["labels"]["severity"] in ("warning", "critical")


def test_panels_are_described_and_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["title"], panel["id"]
        assert panel["description"], panel["title"]
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
