"""Impressions in the event log: visitor, position, model version, arm, team and propensity."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from recsys_tasks.engine.bundle import pack, read_bundle
from recsys_tasks.experiments.definition import read_experiment
from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings
from tests.integration.endpoints import install_bundle

TOKEN = {"Authorization": "Bearer secret"}
EXPERIMENT = """
name = "four"
[[arms]]
name = "model"
share = 0.25
[[arms]]
name = "popular"
share = 0.25
answers = "popularity"
[[arms]]
name = "near"
share = 0.25
answers = "neighbours"
[[arms]]
name = "both"
share = 0.25
against = "popularity"
"""


@contextmanager
def _client(home: Path, bundle: Path, experiment: str | None = None, **settings: Any) -> Iterator[TestClient]:
    if not (home / "endpoint").exists():
        install_bundle(home, bundle)
    if experiment is not None:
        settings["experiment_file"] = home / "experiment.toml"
        settings["experiment_file"].write_text(experiment, encoding="utf-8")
    with TestClient(create_app(Settings(home=home, admin_token="secret", **settings))) as client:  # noqa: S106
        yield client


def _events(home: Path) -> list[dict[str, Any]]:
    files = sorted((home / "endpoint" / "journal").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def _request(client: TestClient, path: str = "/v1/recommendations", **body: object) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


@pytest.fixture
def visitors(tmp_path: Path) -> dict[str, str]:
    """A returning user of each arm."""
    path = tmp_path / "arms.toml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    experiment = read_experiment(path)
    assert experiment is not None
    return {experiment.assign_arm(user).name: user for user in (f"u{number}" for number in range(60))}


def test_each_item_is_one_impression_and_the_first_carries_the_properties_of_the_list(
    tmp_path: Path, bundles: list[Path]
) -> None:
    with _client(tmp_path, bundles[0]) as client:
        answer = _request(client, user_id="u1", session_id="s1", k=3)
    events = _events(tmp_path)
    assert [event["event_id"] for event in events] == [f"{answer['request_id']}-{place}" for place in (1, 2, 3)]
    assert [event["item_id"] for event in events] == [item["item_id"] for item in answer["items"]]
    assert [event["position"] for event in events] == [1, 2, 3]
    for event, item in zip(events, answer["items"], strict=True):
        assert (event["event_type"], event["user_id"], event["session_id"]) == ("impression", "u1", "s1")
        assert event["properties"]["model_version"] == "1"
        assert event["properties"]["score"] == item["score"]
    first = events[0]["properties"]
    assert (first["list"], first["segment"]) == ("recommendations", "returning")
    assert first["milliseconds"] > 0
    assert not {"experiment", "arm", "sampled", "traffic"} & set(first)


def test_visitors_get_the_lists_of_their_arms_and_impressions_name_the_arm(
    tmp_path: Path, bundles: list[Path], visitors: dict[str, str]
) -> None:
    with _client(tmp_path, bundles[0]) as client:
        of_model = {arm: _request(client, user_id=user, k=5, record=False) for arm, user in visitors.items()}
        popular = [item["item_id"] for item in _request(client, user_id="nobody", k=5, record=False)["items"]]
    with _client(tmp_path, bundles[0], EXPERIMENT) as client:
        answers = {arm: _request(client, user_id=user, k=5) for arm, user in visitors.items()}
    assert answers["model"]["items"] == of_model["model"]["items"]
    assert [item["item_id"] for item in answers["popular"]["items"]] == popular
    assert {item["source"] for item in answers["near"]["items"]} == {"neighbours"}
    events = _events(tmp_path)
    for arm, answer in answers.items():
        impressions = [event for event in events if event["request_id"] == answer["request_id"]]
        assert (impressions[0]["properties"]["experiment"], impressions[0]["properties"]["arm"]) == ("four", arm)
        teams = {event["item_id"]: event["properties"].get("team") for event in impressions}
        if arm != "both":
            assert set(teams.values()) == {None}
            continue
        assert set(teams.values()) == {"model", "popularity"}
        model_items = [item["item_id"] for item in of_model["both"]["items"]]
        assert all(item in model_items for item, team in teams.items() if team == "model")


def test_the_neighbours_arm_follows_the_session(tmp_path: Path, bundles: list[Path], visitors: dict[str, str]) -> None:
    with _client(tmp_path, bundles[0], EXPERIMENT) as client:
        user = visitors["near"]
        before = _request(client, user_id=user, k=5)["items"]
        client.post("/v1/events", json={"event_type": "view", "user_id": user, "session_id": "s", "item_id": "i3"})
        after = _request(client, user_id=user, session_id="s", k=5)["items"]
        assert before != after
        assert "i3" not in [item["item_id"] for item in after]


def test_the_personal_frequency_arm_counts_the_history_and_live_actions(tmp_path: Path, bundles: list[Path]) -> None:
    histories, vocabulary = (bundle := read_bundle(bundles[0])).histories, bundle.vocabulary
    counts = Counter(vocabulary.item_id(int(number)) for number in histories.of("u1")[0])
    popularity = {item: histories.popularity[vocabulary.number_of[item]] for item in vocabulary.item_ids}
    experiment = """
    name = "two"
    arms = [
        {name = "frequent", share = 0.5, answers = "personal_frequency"},
        {name = "frequent too", share = 0.5, answers = "personal_frequency"},
    ]
    """
    with _client(tmp_path, bundles[0], experiment) as client:
        before = _request(client, user_id="u1", k=12)["items"]
        assert {item["source"] for item in before} == {"personal_frequency"}
        expected = sorted(popularity, key=lambda item: (-counts[item], -popularity[item]))[:12]
        assert [item["item_id"] for item in before] == expected
        other = next(item for item in popularity if item not in counts)
        for number in range(max(counts.values()) + 1):
            body = {"event_type": "purchase", "user_id": "u1", "session_id": "s", "item_id": other}
            assert client.post("/v1/events", json={**body, "event_id": f"e{number}"}).status_code < 300
        after = _request(client, user_id="u1", session_id="s", k=12)["items"]
        others = [item for item in expected if item != other]
        assert [item["item_id"] for item in after] == [other, *others[:11]]
        assert {item["source"] for item in _request(client, user_id="nobody", k=5)["items"]} == {"popular"}


def test_an_anonymous_visitor_has_no_arm(tmp_path: Path, bundles: list[Path]) -> None:
    with _client(tmp_path, bundles[0], EXPERIMENT) as client:
        _request(client, k=2)
    (first, _) = _events(tmp_path)
    assert "arm" not in first["properties"]
    assert first["properties"]["segment"] == "anonymous"


def test_the_previous_arm_gets_the_previous_version_once_there_is_one(tmp_path: Path, bundles: list[Path]) -> None:
    arms = EXPERIMENT.replace('answers = "popularity"', 'answers = "previous"', 1)
    users = [f"u{number}" for number in range(30)]
    with _client(tmp_path, bundles[0], arms) as client:
        assert {_request(client, user_id=user, k=1)["model_version"] for user in users} == {"1"}
        assert client.put("/v1/admin/model", content=pack(bundles[1]), headers=TOKEN).status_code == 200
        versions = {user: _request(client, user_id=user, k=1)["model_version"] for user in users}
    assert set(versions.values()) == {"1", "2"}
    with _client(tmp_path, bundles[0], arms) as client:  # also after a restart
        assert {user: _request(client, user_id=user, k=1)["model_version"] for user in users} == versions
    of_arm = [event["properties"] for event in _events(tmp_path) if event["properties"].get("arm") == "popular"]
    assert of_arm
    assert {properties["model_version"] for properties in of_arm} == {"1"}


def test_impressions_are_sampled_by_whole_lists_and_carry_the_sample_share(tmp_path: Path, bundles: list[Path]) -> None:
    with _client(tmp_path, bundles[0], impression_sample_share=0.3) as client:
        for number in range(100):
            _request(client, user_id=f"u{number % 7}", k=2)
    events = _events(tmp_path)
    assert 30 <= len(events) <= 100
    assert all(event["properties"]["sampled"] == 0.3 for event in events if event["position"] == 1)
    assert len({event["request_id"] for event in events}) * 2 == len(events)


def test_impressions_of_internal_and_bot_traffic_are_marked(tmp_path: Path, bundles: list[Path]) -> None:
    with _client(tmp_path, bundles[0]) as client:
        _request(client, user_id="u1", k=1, traffic="internal")
        _request(client, "/v1/search", user_id="u1", query="red", k=1, traffic="bot")
    recommended, search_result, search = _events(tmp_path)
    assert recommended["properties"]["traffic"] == "internal"
    assert {event["event_type"]: event["properties"]["traffic"] for event in (search_result, search)} == {
        "search": "bot",
        "impression": "bot",
    }


def test_impressions_of_explored_lists_carry_propensities(tmp_path: Path, bundles: list[Path]) -> None:
    with _client(tmp_path, bundles[0], exploration_share=0.5) as client:
        _request(client, user_id="u1", k=4)
    first, *others = (event["properties"] for event in _events(tmp_path))
    assert len(others) == 3
    assert all(0 < impression["propensity"] <= 1 for impression in (first, *others))
    assert len({impression["rank"] for impression in (first, *others)}) == 4
    assert first["explored_share"] == 0.5
    assert max(impression["rank"] for impression in (first, *others)) <= first["candidates"] == 20
    assert "candidates" not in others[0]


@pytest.mark.parametrize(
    "options",
    [
        {"exclude_seen": True},
        {"filter": {"field": "item_id", "one_of": ["i1", "i2"]}},
        {"session": [{"event_type": "view", "item_id": "i1"}]},
        {"diversity": 0.2},
    ],
)
def test_lists_that_depend_on_more_than_recorded_actions_are_marked(
    tmp_path: Path, bundles: list[Path], options: dict[str, Any]
) -> None:
    with _client(tmp_path, bundles[0]) as client:
        _request(client, user_id="u1", k=2)
        _request(client, user_id="u1", k=2, **options)
    plain, marked = (event["properties"] for event in _events(tmp_path) if event["position"] == 1)
    assert "constrained" not in plain
    assert marked["constrained"] is True


def test_a_search_is_recorded_with_its_results_and_corrections(tmp_path: Path, bundles: list[Path]) -> None:
    with _client(tmp_path, bundles[0]) as client:
        found, corrected, nothing = (
            _request(client, "/v1/search", query=query, user_id="u1") for query in ("blue", "blux", "冰箱")
        )
    recorded = {
        event["event_id"]: event["properties"] for event in _events(tmp_path) if event["event_type"] == "search"
    }
    assert recorded == {
        found["request_id"]: {"results": found["total"]},
        corrected["request_id"]: {"results": corrected["total"], "corrected": True},
        nothing["request_id"]: {"results": 0},
    }
    assert found["total"] == corrected["total"] > 0
