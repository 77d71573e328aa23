"""The storefront in a real browser, on a running endpoint whose events reach the warehouse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine, text

from recsys_tasks.settings import settings
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.steps import ingestion
from recsys_tasks.warehouse import engine
from tests.conftest import fresh_warehouse
from tests.integration.endpoints import TOKEN, install_bundle, running_process
from tests.integration.feedback import load_catalog
from tests.pages.browser import accessibility_problems, new_page
from tests.shops import ITEMS

EVIL = "<img src=x onerror=\"document.title='owned'\">"
SIZES = {"desktop": (1280, 800), "phone": (360, 740)}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[str]:
    """Address of the storefront of a running endpoint; one product has markup in its title."""
    home, port = tmp_path_factory.mktemp("shop"), find_free_port()
    install_bundle(home, bundle)
    with running_process(home, TOKEN, port, RECSYS_SHOP="true"):
        url = f"http://127.0.0.1:{port}"
        item = {"title": f"Evil {EVIL}", "category_path": f"Evil > {EVIL}", "price": 5.0}
        answer = httpx.put(f"{url}/v1/items/evil", json=item, headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200, answer.text
        yield f"{url}/shop/"


@pytest.fixture
def page(browser: Browser, shop: str) -> Iterator[Page]:
    with new_page(browser) as opened:
        opened.goto(shop)
        expect(opened.locator(".card").first).to_be_visible()
        yield opened


@pytest.fixture
def warehouse(postgres: str, shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A warehouse that collects the events of the shop's endpoint."""
    with fresh_warehouse(postgres) as found:
        for name, value in {
            "HOME": str(tmp_path),
            "WAREHOUSE_URL": found.url.render_as_string(hide_password=False),
            "ENDPOINT_URLS": json.dumps([shop.removesuffix("/shop/")]),
            "ADMIN_TOKEN": TOKEN,
        }.items():
            monkeypatch.setenv(f"RECSYS_{name}", value)
        settings.cache_clear()
        engine.cache_clear()
        yield found
        engine().dispose()
    settings.cache_clear()
    engine.cache_clear()


def _next_list(page: Page) -> list[str]:
    found: list[str] = page.locator("#next-list li").evaluate_all("rows => rows.map((row) => row.dataset.item)")
    return found


def test_a_shopper_searches_looks_and_buys_and_the_next_list_and_the_warehouse_know(
    page: Page, warehouse: Engine, tmp_path: Path
) -> None:
    before = _next_list(page)
    page.get_by_role("combobox", name="Search").fill("item 3")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("results for “item 3”")
    page.locator(".card a").first.click()
    expect(page.get_by_role("heading", level=2, name="Goes with")).to_be_visible()
    title = page.get_by_role("heading", level=1).inner_text()
    page.get_by_role("article").get_by_role("button", name="Add to cart").click()
    expect(page.locator("#cart-count")).to_have_text("1")
    page.get_by_role("link", name="Cart").click()
    expect(page.get_by_role("table")).to_contain_text(title)
    page.get_by_role("button", name="Buy").click()
    expect(page.get_by_role("heading", level=1, name="Thank you")).to_be_visible()
    expect(page.locator(".actions")).to_contain_text(f"bought {title}")
    assert _next_list(page) != before

    load_catalog(warehouse, tmp_path, ITEMS)
    ingestion.load_feedback(ingestion.fetch_feedback())
    with warehouse.connect() as connection:
        query = "select event_type, count(*) from events where source = 'feedback' group by 1"
        rows = connection.execute(text(query)).all()
    counts = {str(kind): number for kind, number in rows}
    assert {"search", "view", "add_to_cart", "purchase", "impression"} <= counts.keys()
    assert counts["purchase"] == 1


def test_known_shoppers_have_a_session_and_lists_of_their_own(page: Page) -> None:
    of_visitor = _next_list(page)
    page.get_by_label("Who am I").select_option(index=1)
    expect(page.get_by_role("heading", level=1)).to_have_text("Recommended for you")
    expect(page.locator("#panel-content dd").first).not_to_have_text("new visitor")
    expect(page.locator("#panel-content .before")).to_have_count(0)
    assert _next_list(page) != of_visitor


def test_the_search_box_suggests_by_keyboard(page: Page) -> None:
    box = page.get_by_role("combobox", name="Search")
    box.press_sequentially("item 1")
    suggestions = page.get_by_role("listbox", name="Suggestions")
    expect(suggestions.get_by_role("option").first).to_be_visible()
    box.press("ArrowDown")
    expect(suggestions.get_by_role("option", selected=True)).to_have_count(1)
    box.press("Enter")
    expect(suggestions).to_be_hidden()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Item 1")


def test_results_can_be_refined_and_ordered_and_the_address_keeps_it(page: Page, shop: str) -> None:
    page.goto(f"{shop}#/search?q=item")
    page.get_by_role("navigation", name="Refine the results").get_by_role("link", name="D1 > C1").click()
    page.get_by_label("Order").select_option("Price, high to low")
    expect(page).to_have_url(f"{shop}#/search?q=item&category=D1+%3E+C1&sort=price_descending")
    expect(page.locator(".card .price")).to_have_text(["31.00", "21.00", "11.00", "1.00"])
    page.go_back()
    expect(page.get_by_label("Order")).to_have_value("relevance")


def test_markup_in_titles_and_queries_is_text(page: Page, shop: str) -> None:
    page.goto(f"{shop}#/search?q=evil")
    expect(page.locator(".card .title").first).to_contain_text(EVIL)
    page.locator(".card a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(EVIL)
    page.get_by_role("combobox", name="Search").fill(EVIL)
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(EVIL)
    assert page.locator("main img").count() == 0
    assert page.title() != "owned"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_page_is_accessible_and_fits(browser: Browser, shop: str, scheme: str, size: str) -> None:
    width, height = SIZES[size]
    with new_page(browser, color_scheme=scheme, viewport={"width": width, "height": height}) as page:
        for address in ("", "#/search?q=item", "#/item/i3", "#/cart", "#/nowhere"):
            page.goto(f"{shop}{address}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
            assert accessibility_problems(page) == [], address
            assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        page.goto(f"{shop}#/item/i3")
        page.get_by_role("article").get_by_role("button", name="Add to cart").click()
        page.goto(f"{shop}#/cart")
        expect(page.get_by_role("button", name="Buy")).to_be_visible()
        assert accessibility_problems(page) == []


def test_pages_load_only_files_of_the_endpoint_and_few(browser: Browser, shop: str) -> None:
    with new_page(browser) as page:
        loaded: dict[str, int] = {}
        page.on("response", lambda answer: loaded.update({answer.url: len(answer.body())}))
        page.goto(shop)
        expect(page.locator(".card").first).to_be_visible()
        assert all(url.startswith(shop.removesuffix("shop/")) for url in loaded)
        assert sum(size for url, size in loaded.items() if url.endswith(".js")) < 150_000


def test_the_storefront_is_off_by_default(tmp_path: Path, bundle: Path) -> None:
    install_bundle(tmp_path, bundle)
    port = find_free_port()
    with running_process(tmp_path, TOKEN, port):
        assert httpx.get(f"http://127.0.0.1:{port}/shop/").status_code == 404
