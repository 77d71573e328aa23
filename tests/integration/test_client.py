"""The HTTP client against an endpoint in a separate process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from recsys_tasks.client import EndpointError, Event, RecommendationRequest, RecommenderClient, SearchRequest
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.wire.filters import Filter
from tests.integration.endpoints import install_bundle, running_endpoint


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, bundles: list[Path]) -> Iterator[RecommenderClient]:
    home = tmp_path_factory.mktemp("shop")
    install_bundle(home, bundles[0])
    with running_endpoint(home) as url, RecommenderClient(url, timeout_seconds=10) as client:
        yield client


def test_a_shop_recommends_searches_and_reports_events(shop: RecommenderClient) -> None:
    cheap = Filter(field="price", at_most=10)
    recommended = shop.recommend(RecommendationRequest(user_id="u1", k=3, filter=cheap))
    assert len(recommended.items) == 3
    assert all(int(item.item_id[1:]) <= 10 for item in recommended.items)
    result = shop.search(SearchRequest(query="blue", user_id="u1"))
    assert not result.fallback
    assert result.items[0].title.endswith("blue")
    assert shop.similar("i3", k=2).items[0].item_id != "i3"
    event = Event(event_type="view", user_id="fresh", item_id="i3", request_id=recommended.request_id)
    assert shop.send(event).event_ids == shop.send(event).event_ids  # idempotent
    many = shop.recommend_many([RecommendationRequest(user_id=user, k=2) for user in ("fresh", "nobody")])
    assert [answer.items[0].source for answer in many] == ["model", "popular"]


def test_an_error_response_names_the_problem_and_its_path(shop: RecommenderClient) -> None:
    with pytest.raises(EndpointError, match=r"422 .*`\$\.k`") as error:
        shop.recommend(RecommendationRequest(k=0))
    assert error.value.problem.status == 422
    with pytest.raises(EndpointError, match=r"does not know the item '\.\./\.\./healthz'"):
        shop.similar("../../healthz")


def test_an_unreachable_endpoint_raises_a_transport_error() -> None:
    with RecommenderClient(f"http://127.0.0.1:{find_free_port()}") as unreachable, pytest.raises(httpx.TransportError):
        unreachable.recommend(RecommendationRequest())
