"""The console in a real browser: what it shows of a real warehouse, registry and endpoint, and what people do in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, expect
from sqlalchemy import Engine, text

from recsys_tasks.client import Event, RecommendationRequest, RecommenderClient, SearchRequest
from recsys_tasks.promotion.deployment_record import read_state
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.steps import features, ingestion, monitoring, promotion, training
from recsys_tasks.warehouse import engine
from tests.conftest import configured_shop
from tests.integration.endpoints import TOKEN, running_process, served_versions
from tests.pages.browser import accessibility_problems, new_page
from tests.shops import LENIENT_GATE_RULES, fill

PAGES = (
    "",
    "versions",
    "versions/1",
    "experiments",
    "monitors",
    "search",
    "users?id=u1",
    "items?id=i3",
    "rules",
    "audit",
)
MARKUP = "<script>document.title='owned'</script>"
EXPERIMENT = """
name = "does it help"
[[arms]]
name = "model"
share = 0.5
[[arms]]
name = "B"
share = 0.5
answers = "popularity"
"""


class Site(NamedTuple):
    """Addresses of a console and of the endpoint that it manages, and their warehouse."""

    console: str
    endpoint: str
    warehouse: Engine


@pytest.fixture(scope="module")
def site(postgres: str, tracking_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A shop with version 1, the challenger, and version 2, a copy of it, which the gate refuses."""
    home, port = tmp_path_factory.mktemp("console"), find_free_port()
    (home / "gate.toml").write_text(LENIENT_GATE_RULES)
    (home / "experiment.toml").write_text(EXPERIMENT)
    options = {
        "ENDPOINT_URLS": json.dumps([f"http://127.0.0.1:{port}"]),
        "ADMIN_TOKEN": TOKEN,
        "GATE_RULES": home / "gate.toml",
        "EXPERIMENT_FILE": home / "experiment.toml",
        "MIN_ITEM_EVENTS": 1,
        "TEST_SHARE": 0.2,
        "MAX_TRAINING_EPOCHS": 8,
        "TEXT_ENCODER": "none",
    }
    with configured_shop(postgres, tracking_template, home, **options) as warehouse:
        fill(warehouse)
        features.build_features()
        run_id = training.train_model()
        training.evaluate_run(run_id)
        training.register_run(run_id)
        experiment = str(home / "experiment.toml")
        with (
            running_process(home / "endpoint", TOKEN, port, RECSYS_SHOP="true", RECSYS_EXPERIMENT_FILE=experiment),
            _running_console() as console,
        ):
            yield Site(console, f"http://127.0.0.1:{port}", warehouse)
        engine().dispose()


@contextmanager
def _running_console() -> Iterator[str]:
    port = find_free_port()
    command = [sys.executable, "-W", "ignore", "-m", "recsys_tasks", "console", "--port", str(port)]
    process, deadline = subprocess.Popen(command, env=os.environ), time.monotonic() + 60
    url = f"http://127.0.0.1:{port}/console/"
    try:
        while True:
            try:
                httpx.get(f"{url}sign-in")
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, "the console does not answer after a minute"
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with new_page(browser) as opened:
        opened.goto(site.console)
        _sign_in(opened)
        yield opened


def _sign_in(page: Page, key: str = TOKEN) -> None:
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Admin token").fill(key)
    page.get_by_role("button", name="Sign in").click()


def _submit_action(page: Page, label: str, reason: str = "it is better") -> None:
    """Opens the form of an action, gives a reason, confirms and sends it."""
    form = page.locator("details.action").filter(has=page.get_by_text(f"{label}…"))
    form.locator("summary").click()
    form.get_by_label("Reason").fill(reason)
    form.get_by_label("Confirm").check()
    form.get_by_role("button", name=label).click(no_wait_after=True)


def _audit(site: Site) -> list[tuple[str, str, str]]:
    with site.warehouse.connect() as connection:
        rows = connection.execute(text("select operator, action, outcome from console_actions order by action_id"))
        return [(row.operator, row.action, row.outcome) for row in rows]


def test_pages_require_the_admin_token(browser: Browser, site: Site) -> None:
    for address in PAGES:
        answer = httpx.get(f"{site.console}{address}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in"), address
    for action in ("promote", "roll-back", "pause", "resume", "rules", "rules/undo", "rules/preview"):
        assert httpx.post(f"{site.console}{action}").headers["location"] == "/console/sign-in", action
    with browser.new_context() as context:  # the rejection is an error in the browser's log
        page = context.new_page()
        page.goto(site.console)
        _sign_in(page, "guessed")
        expect(page.get_by_role("alert")).to_contain_text("Sign-in failed")
        page.goto(site.console)
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_promotion_and_rollback_reach_the_endpoint(page: Page, browser: Browser, site: Site) -> None:
    page.get_by_role("link", name="Versions").click()
    page.get_by_role("link", name="version 1").click()
    _submit_action(page, "Approve and promote")
    expect(page.get_by_role("status")).to_have_text("Version 1 serves at every endpoint.", timeout=120_000)
    with new_page(browser) as shop:
        shop.goto(f"{site.endpoint}/shop/")
        expect(shop.locator("#panel-content dd").nth(1)).to_have_text("1")
    assert _audit(site)[-1] == ("Ada", "promote", "Version 1 serves at every endpoint")

    again, _ = training.reproduce(read_state(engine()).served[-1].run_id)
    number, folder = promotion.build(training.register_run(again))
    promotion.activate(number, folder, ["measured elsewhere"], "Grace")
    assert served_versions([site.endpoint]) == [number]
    page.get_by_role("link", name="Overview").click()
    _submit_action(page, f"Roll back version {number}", "it is worse")
    outcome = f"Version {number} is taken back; version 1 serves at every endpoint."
    expect(page.get_by_role("status")).to_have_text(outcome)
    page.reload()  # repeats nothing
    expect(page.get_by_role("status")).to_have_text(outcome)
    assert served_versions([site.endpoint]) == ["1"]
    page.get_by_role("link", name="Audit").click()
    expect(page.get_by_role("row").nth(1)).to_contain_text("it is worse")


def test_the_reasons_of_a_refusal_are_two_clicks_away(browser: Browser, site: Site) -> None:
    with browser.new_context() as context:  # the refusal is an error in the browser's log
        page = context.new_page()
        page.goto(site.console)
        _sign_in(page)
        page.goto(f"{site.console}versions/2")
        _submit_action(page, "Approve and promote")
        expect(page.get_by_role("alert")).to_contain_text("Version 2 is refused", timeout=120_000)
        page.get_by_role("link", name="Versions").click()
        page.get_by_role("link", name="version 2").first.click()
        expect(page.get_by_role("heading", level=3).first).to_contain_text("refused")
        expect(page.get_by_role("main")).to_contain_text("a tie, the champion stays")
    assert _audit(site)[-1][2].startswith("failed: Version 2 is refused")


def test_rules_are_previewed_activated_and_restored(page: Page, site: Site) -> None:
    page.get_by_role("link", name="Rules").click()
    page.get_by_label("Item id", exact=True).fill("i17")
    page.get_by_label("Position, from 1").fill("1")
    page.get_by_label("User id for the preview").fill("u1")
    page.get_by_role("button", name="Preview", exact=True).click()
    expect(page.get_by_role("rowheader", name="item i17")).to_be_visible()
    expect(page.locator(".pair ol").nth(1).locator("li").first).to_have_text("Item 17")
    assert _first_item(site) != "i17"
    _submit_action(page, "Activate these rules")
    expect(page.get_by_role("status")).to_contain_text("The new rules are in use at every endpoint")
    assert _first_item(site) == "i17"
    page.get_by_role("link", name="Rules").click()
    _submit_action(page, page.locator("summary", has_text="Restore version").inner_text().rstrip("…"))
    expect(page.get_by_role("status")).to_contain_text("The new rules are in use at every endpoint")
    assert _first_item(site) != "i17"


def _first_item(site: Site) -> str:
    with RecommenderClient(site.endpoint, timeout_seconds=10) as client:
        return client.recommend(RecommendationRequest(user_id="u1", k=3, record=False)).items[0].item_id


def test_invalid_rules_are_refused_with_the_field(browser: Browser, site: Site) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(site.console)
        _sign_in(page)
        page.goto(f"{site.console}rules")
        page.get_by_text("Edit as JSON").click()
        page.get_by_label("Rules, as JSON").fill('{"weigh": [{"filter": {"field": "color"}, "factor": 2}]}')
        page.get_by_role("button", name="Preview the JSON").click()
        expect(page.get_by_role("alert")).to_contain_text("$.weigh[0].filter")
        page.goto(f"{site.console}rules")
        page.locator("input[name=version]").first.evaluate("field => { field.value = '999' }")
        page.get_by_role("button", name="Preview", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("The rules have changed")


def test_the_worst_query_and_the_visitors_of_an_arm_are_within_three_clicks(page: Page, site: Site) -> None:
    _send_traffic(site)
    page.get_by_role("link", name="Search").click()
    expect(page.get_by_role("row").nth(1)).to_contain_text("nothing of the kind")
    page.get_by_role("row").nth(1).get_by_role("link").click()
    expect(page.get_by_role("heading", level=2).first).to_contain_text("“nothing of the kind”")
    page.get_by_role("link", name="Experiments").click()
    expect(page.get_by_role("img", name="CTR of recommendations by day")).to_be_visible()
    page.get_by_role("link", name="B", exact=True).click()
    expect(page.get_by_role("heading", name="Arm B")).to_be_visible()
    page.get_by_role("row").nth(1).get_by_role("link").click()
    expect(page.get_by_role("main")).to_contain_text("Arm: B")


def test_a_suggested_synonym_is_accepted_and_finds_items(page: Page, site: Site) -> None:
    with RecommenderClient(site.endpoint, timeout_seconds=10) as client:
        for user_id in ("u3", "u4"):
            client.search(SearchRequest(query="Doohickey", user_id=user_id))
            found = client.search(SearchRequest(query="item 17", user_id=user_id))
            view = Event(event_type="view", user_id=user_id, item_id="i17", request_id=found.request_id)
            client.send(view)
        assert client.search(SearchRequest(query="doohickey", record=False)).fallback
        ingestion.load_feedback(ingestion.fetch_feedback())
        page.get_by_role("link", name="Search").click()
        row = page.get_by_label("Suggested synonyms").get_by_role("row").nth(1)
        expect(row).to_contain_text("doohickey")
        _submit_action(page, "Add synonym: “doohickey” also finds “item 17”")
        expect(page.get_by_role("status")).to_contain_text("The new rules are in use at every endpoint")
        again = client.search(SearchRequest(query="doohickey", record=False))
        assert (again.fallback, again.items[0].item_id) == (False, "i17")
    page.get_by_role("link", name="Search").click()
    expect(page.get_by_label("Suggested synonyms")).to_have_count(0)


def test_the_report_is_one_accessible_file_that_fits_a_phone(browser: Browser, site: Site) -> None:
    _send_traffic(site)
    written = monitoring.report()
    assert written is not None
    for scheme, width in (("light", 390), ("dark", 1280)):
        with new_page(browser, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
            requested: list[str] = []
            page.on("request", partial(_note, requested))
            page.goto(written.file.url)
            assert accessibility_problems(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert all(image.get_attribute("alt") for image in page.locator("img").all())
            assert {url.split(":")[0] for url in requested} <= {"file", "data"}


def _note(urls: list[str], request: Request) -> None:
    urls.append(request.url)


def _send_traffic(site: Site) -> None:
    """Shows lists to all users, one of whom clicks, and searches for what nobody sells; collects and attributes."""
    with RecommenderClient(site.endpoint, timeout_seconds=10) as client:
        for number in range(30):
            shown = client.recommend(RecommendationRequest(user_id=f"u{number}", k=3))
        client.send(
            Event(event_type="view", user_id="u29", item_id=shown.items[0].item_id, request_id=shown.request_id)
        )
        for _ in range(2):
            httpx.post(f"{site.endpoint}/v1/search", json={"query": "nothing of the kind", "user_id": "u1"})
    ingestion.load_feedback(ingestion.fetch_feedback())
    monitoring.attribute_outcomes()


def test_forged_forms_are_rejected(browser: Browser, site: Site) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(site.console)
        _sign_in(page)
        before = _audit(site)
        form: dict[str, str | float | bool] = {"confirm": "yes", "reason": "none", "version": "1", "rules": "{}"}
        for action in (
            "promote",
            "roll-back",
            "pause",
            "resume",
            "rules",
            "rules/undo",
            "rules/synonyms",
            "rules/preview",
            "sign-out",
        ):
            forged = page.request.post(f"{site.console}{action}", form=form)
            assert forged.status == 403, action
            token = page.locator("input[name=csrf]").first.input_value()
            foreign = {"Origin": "https://evil.example"}
            answer = page.request.post(f"{site.console}{action}", form={**form, "csrf": token}, headers=foreign)
            assert answer.status == 403, action
        assert _audit(site) == before
        cookie = next(cookie for cookie in context.cookies() if cookie["name"] == "recsys_console")
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")


def test_markup_in_data_is_escaped(page: Page, site: Site) -> None:
    item = {"title": f"Evil {MARKUP}"}
    answer = httpx.put(f"{site.endpoint}/v1/items/evil", json=item, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    page.goto(f"{site.console}items?id=evil")
    expect(page.get_by_role("main")).to_contain_text(MARKUP)
    page.goto(f"{site.console}search?q={MARKUP}")
    expect(page.get_by_label("Query")).to_have_value(MARKUP)
    assert page.title() != "owned"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_every_page_is_accessible_and_does_not_overflow(browser: Browser, site: Site, scheme: str, width: int) -> None:
    with new_page(browser, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        page.goto(site.console)
        assert accessibility_problems(page) == []
        _sign_in(page)
        for address in PAGES:
            page.goto(f"{site.console}{address}")
            assert accessibility_problems(page) == [], address
            assert page.evaluate("document.documentElement.scrollWidth") <= width, address
