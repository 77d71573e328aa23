"""The HTTP client against an endpoint in a separate process."""

from __future__ import annotations

import asyncio
import html
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recsys_tasks.client
from recsys_tasks.client import (
    AsyncRecommenderClient,
    EndpointError,
    Event,
    Filter,
    Item,
    ItemChanges,
    MerchandisingRules,
    Pin,
    RecommendationRequest,
    RecommenderClient,
    RetryPolicy,
    SearchRequest,
    SimilarItemsRequest,
)
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.wire.messages import RecommendationResponse
from tests.integration.endpoints import TOKEN, install_bundle, running_endpoint, running_process


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


def test_the_asynchronous_client_has_the_same_methods(shop: RecommenderClient) -> None:
    def methods(client: type) -> set[str]:
        return {name for name in vars(client) if not name.startswith("_")}

    assert methods(AsyncRecommenderClient) == methods(RecommenderClient)

    request = RecommendationRequest(user_id="u1", k=3, record=False, time=datetime(2024, 6, 1, tzinfo=UTC))

    async def recommend() -> list[RecommendationResponse]:
        async with AsyncRecommenderClient(str(shop._http.base_url), timeout_seconds=10) as client:
            return list(await asyncio.gather(*(client.recommend(request) for _ in range(5))))

    own = shop.recommend(request)
    assert [answer.items for answer in asyncio.run(recommend())] == [own.items] * 5


def test_an_administrator_changes_items_and_rules(shop: RecommenderClient) -> None:
    with RecommenderClient(str(shop._http.base_url), TOKEN, timeout_seconds=10) as admin:
        stored = admin.put_items({f"lamp-{number}": Item(title="Item, blue", price=9.0) for number in range(3)})
        assert (stored.stored, stored.rejected) == (3, [])
        assert admin.patch_item("lamp-1", ItemChanges(price=4.5)).item_id == "lamp-1"
        cheap = SimilarItemsRequest(k=5, filter=Filter(field="price", one_of=[4.5]))
        assert [item.item_id for item in admin.similar("lamp-2", request=cheap).items] == ["lamp-1"]
        admin.delete_item("lamp-1")
        version = admin.put_rules(MerchandisingRules(pin=[Pin("i30", 1)]), admin.get_rules().version).version
        assert shop.recommend(RecommendationRequest(k=1)).items[0].item_id == "i30"
        request = RecommendationRequest(k=2)
        for pins, first in (([Pin("i31", 1)], "i31"), ([], shop.recommend(request).items[1].item_id)):
            previewed = admin.preview_rules(MerchandisingRules(pin=pins), request)  # in place of those in use
            assert (previewed.items[0].item_id, previewed.recorded) == (first, False)
            assert "i30" not in [item.item_id for item in previewed.items]
        assert shop.recommend(RecommendationRequest(k=1)).items[0].item_id == "i30"
        admin.put_rules(MerchandisingRules(), version)
        assert admin.interested_users("i3", k=2).users


class _BusyServer(BaseHTTPRequestHandler):
    """Answers 503 as often as the path says, then an empty list of events."""

    requests: ClassVar[list[tuple[str | None, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append((self.headers["Idempotency-Key"], body))
        is_busy = len(self.requests) <= 2
        content = b"{}" if is_busy else b'{"accepted": 1, "ignored": 0, "event_ids": ["e"]}'
        self.send_response(503 if is_busy else 200)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def busy() -> Iterator[str]:
    _BusyServer.requests.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _BusyServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_busy_endpoint_is_asked_again_with_the_same_ids(busy: str) -> None:
    event = Event(event_type="view", user_id="u", item_id="i3")
    with RecommenderClient(busy, retries=RetryPolicy(3, 0.01)) as client:
        assert client.send(event).accepted == 1
    assert len(_BusyServer.requests) == 3
    assert len(set(_BusyServer.requests)) == 1


def test_the_last_attempt_tells_the_problem(busy: str) -> None:
    event = Event(event_type="view", user_id="u", item_id="i3")
    with RecommenderClient(busy, retries=RetryPolicy(2, 0.01)) as client, pytest.raises(EndpointError, match="503"):
        client.send(event)
    assert len(_BusyServer.requests) == 2


@given(attempt=st.integers(1, 20), first=st.floats(0.001, 1.0), asked=st.integers(0, 5))
def test_waits_grow_and_are_bounded(attempt: int, first: float, asked: int) -> None:
    policy = RetryPolicy(10, first, max_wait_seconds=3.0)
    wait = policy.wait_seconds(attempt, str(asked))
    if attempt >= 10 or asked > 3:
        assert wait is None
    else:
        assert wait is not None
        assert asked <= wait <= asked + min(first * 2 ** (attempt - 1), 3.0)


# The client for pages

_PAGE = """<!doctype html><title>Test</title><pre id="result">running</pre><script type="module">
import { EndpointError, RecommenderClient } from "./recommender.js";
const shop = new RecommenderClient("ENDPOINT", { timeout: 10000 });
const result = {};
try {
  const shown = await shop.recommend({ user_id: "u1", k: 3 });
  result.shown = shown.items.length;
  result.found = (await shop.search({ query: "blue", user_id: "u1" })).items[0].title;
  result.similar = (await shop.similar("i3", { k: 2 })).items.length;
  result.item = (await shop.item("i3")).item.title;
  result.suggested = (await shop.suggest("it")).items.length > 0;
  const view = { event_type: "view", user_id: "page", item_id: shown.items[0].item_id, request_id: shown.request_id };
  result.accepted = (await shop.send(view)).accepted;
  await shop.recommend({ k: 0 }).catch((error) => {
    result.refused = error instanceof EndpointError && error.problem.status;
  });
} catch (error) {
  result.error = String(error);
}
document.getElementById("result").textContent = JSON.stringify(result);
</script>"""


def test_a_page_in_a_browser_uses_the_client(tmp_path: Path, bundles: list[Path]) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium, which this machine does not have")
    pages = tmp_path / "pages"
    pages.mkdir()
    shutil.copy(Path(recsys_tasks.client.__file__).parent / "recommender.js", pages)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Pages, directory=str(pages)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    origin = f"http://127.0.0.1:{server.server_port}"
    home = tmp_path / "home"
    home.mkdir()
    install_bundle(home, bundles[0])
    port = find_free_port()
    try:
        with running_process(home, TOKEN, port, RECSYS_ALLOWED_ORIGINS=json.dumps([origin])):
            page = _PAGE.replace("ENDPOINT", f"http://127.0.0.1:{port}")
            (pages / "index.html").write_text(page, encoding="utf-8")
            command = [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={tmp_path / 'profile'}",
            ]
            command += ["--virtual-time-budget=20000", "--dump-dom", f"{origin}/index.html"]
            shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    result = json.loads(html.unescape(shown.partition('id="result">')[2].partition("</pre>")[0]))
    assert result == {
        "shown": 3,
        "found": result["found"],
        "similar": 2,
        "item": "Item 3, yellow",
        "suggested": True,
        "accepted": 1,
        "refused": 422,
    }
    assert result["found"].endswith("blue")


class _Pages(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_an_error_response_names_the_problem_and_its_path(shop: RecommenderClient) -> None:
    with pytest.raises(EndpointError, match=r"422 .*`\$\.k`") as error:
        shop.recommend(RecommendationRequest(k=0))
    assert error.value.problem.status == 422
    with pytest.raises(EndpointError, match=r"does not know the item '\.\./\.\./healthz'"):
        shop.similar("../../healthz")


def test_an_unreachable_endpoint_raises_a_transport_error() -> None:
    with RecommenderClient(f"http://127.0.0.1:{find_free_port()}") as unreachable, pytest.raises(httpx.TransportError):
        unreachable.recommend(RecommendationRequest())
