"""The client against an endpoint in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from recsys_tasks.client import EndpointRefused, Event, RecommendationRequest, RecommenderClient, SearchRequest
from recsys_tasks.engine.filters import Filter
from recsys_tasks.stack.environment import any_free_port
from tests.integration.endpoints import running_endpoint, serves_already


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, bundles: list[Path]) -> Iterator[RecommenderClient]:
    home = tmp_path_factory.mktemp("shop")
    serves_already(home, bundles[0])
    with running_endpoint(home) as url, RecommenderClient(url, seconds=10) as client:
        yield client


def test_a_shop_recommends_searches_and_tells_what_came_of_it(shop: RecommenderClient) -> None:
    cheap = Filter(field="price", at_most=10)
    shown = shop.recommend(RecommendationRequest(user_id="u1", k=3, filter=cheap))
    assert len(shown.items) == 3
    assert all(int(item.item_id[1:]) <= 10 for item in shown.items)
    found = shop.search(SearchRequest(query="blue", user_id="u1"))
    assert not found.fallback
    assert found.items[0].title.endswith("blue")
    assert shop.similar("i3", k=2).items[0].item_id != "i3"
    event = Event(event_type="view", user_id="fresh", item_id="i3", request_id=shown.request_id)
    assert shop.send(event).event_ids == shop.send(event).event_ids  # the same event again
    many = shop.recommend_many([RecommendationRequest(user_id=user, k=2) for user in ("fresh", "nobody")])
    assert [answer.items[0].source for answer in many] == ["model", "popular"]


def test_what_the_endpoint_refuses_says_what_was_wrong_and_where(shop: RecommenderClient) -> None:
    with pytest.raises(EndpointRefused, match=r"422 .*`\$\.k`") as refused:
        shop.recommend(RecommendationRequest(k=0))
    assert refused.value.problem.status == 422
    with pytest.raises(EndpointRefused, match=r"does not know the item '\.\./\.\./healthz'"):
        shop.similar("../../healthz")


def test_where_nobody_answers_the_error_is_that_of_the_connection() -> None:
    with RecommenderClient(f"http://127.0.0.1:{any_free_port()}") as nobody, pytest.raises(httpx.TransportError):
        nobody.recommend(RecommendationRequest())
