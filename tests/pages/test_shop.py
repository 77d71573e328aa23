"""The storefront in a real browser, on a running endpoint whose events reach the warehouse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine, text

from recsys_tasks.serving.access import new_key
from recsys_tasks.settings import settings
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.steps import ingestion
from recsys_tasks.warehouse import engine
from tests.conftest import fresh_warehouse
from tests.integration.endpoints import TOKEN, install_bundle, running_process
from tests.integration.feedback import load_catalog
from tests.pages.browser import accessibility_problems, new_page
from tests.shops import ITEMS

MARKUP = "<img src=x onerror=\"document.title='owned'\">"
SIZES = {"desktop": (1280, 800), "phone": (360, 740)}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[str]:
    """Address of the storefront of a running endpoint; one product has markup in its title."""
    home, port = tmp_path_factory.mktemp("shop"), find_free_port()
    install_bundle(home, bundle)
    with running_process(home, TOKEN, port, RECSYS_SHOP="true"):
        url = f"http://127.0.0.1:{port}"
        item = {"title": f"Evil {MARKUP}", "category_path": f"Evil > {MARKUP}", "price": 5.0}
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


def test_a_purchase_changes_the_next_list_and_reaches_the_warehouse(
    page: Page, warehouse: Engine, tmp_path: Path
) -> None:
    before = _next_list(page)
    page.get_by_role("combobox", name="Search").fill("item 3")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("results for “item 3”")
    page.locator(".card a").first.click()
    expect(page.get_by_role("heading", level=2, name="Goes well with")).to_be_visible()
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


def test_switching_the_user_starts_a_new_session(page: Page) -> None:
    of_visitor = _next_list(page)
    page.get_by_label("Shop as").select_option(index=1)
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


def test_facets_and_sort_order_are_in_the_address(page: Page, shop: str) -> None:
    page.goto(f"{shop}#/search?q=item")
    page.get_by_role("navigation", name="Refine the results").get_by_role("link", name="D1 > C1").click()
    expect(page.locator(".card")).to_have_count(4)
    page.get_by_label("Sort by").select_option("Price, high to low")
    expect(page).to_have_url(f"{shop}#/search?q=item&category=D1+%3E+C1&sort=price_descending")
    expect(page.locator(".card .price")).to_have_text(["31.00", "21.00", "11.00", "1.00"])
    page.go_back()
    expect(page.get_by_label("Sort by")).to_have_value("relevance")


def test_markup_in_titles_and_queries_is_text(page: Page, shop: str) -> None:
    page.goto(f"{shop}#/search?q=evil")
    expect(page.locator(".card .title").first).to_contain_text(MARKUP)
    page.locator(".card a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(MARKUP)
    page.get_by_role("combobox", name="Search").fill(MARKUP)
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(MARKUP)
    assert page.locator("main img").count() == 0
    assert page.title() != "owned"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_page_is_accessible_and_does_not_overflow(browser: Browser, shop: str, scheme: str, size: str) -> None:
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
        expect(page.locator("#cart-count")).to_have_text("1")
        page.goto(f"{shop}#/cart")
        expect(page.get_by_role("button", name="Buy")).to_be_visible()
        assert accessibility_problems(page) == []


def test_pages_load_only_small_files_of_the_endpoint(browser: Browser, shop: str) -> None:
    with new_page(browser) as page:
        loaded: dict[str, int] = {}
        page.on("response", lambda answer: loaded.update({answer.url: len(answer.body())}))
        page.goto(shop)
        expect(page.locator(".card").first).to_be_visible()
        assert all(url.startswith(shop.removesuffix("shop/")) for url in loaded)
        assert sum(size for url, size in loaded.items() if url.endswith(".js")) < 150_000


def test_the_skip_link_moves_the_focus_and_keeps_the_page(page: Page) -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    expect(page.locator(".card").first).to_be_visible()


def test_quantities_can_be_changed_by_keyboard(page: Page) -> None:
    page.locator(".card .add").first.click()
    expect(page.locator("#cart-count")).to_have_text("1")
    page.get_by_role("link", name="Cart").click()
    quantity = page.get_by_role("spinbutton")
    quantity.focus()
    quantity.press("ArrowUp")
    expect(page.locator("#cart-count")).to_have_text("2")
    expect(quantity).to_be_focused()


def test_a_shop_whose_endpoint_has_keys_works_with_one_for_its_origin(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    port = find_free_port()
    origin = f"http://127.0.0.1:{port}"
    key, entry = new_key("shop", ["read", "write"], [origin])
    (tmp_path / "keys.toml").write_text(entry, encoding="utf-8")
    install_bundle(tmp_path, bundle)
    keys = str(tmp_path / "keys.toml")
    with (
        running_process(tmp_path, TOKEN, port, RECSYS_SHOP="true", RECSYS_KEYS_FILE=keys, RECSYS_SHOP_KEY=key),
        new_page(browser) as page,
    ):
        page.goto(f"{origin}/shop/#/item/i3")
        expect(page.get_by_role("heading", level=1)).to_have_text("Item 3, yellow")
        page.get_by_role("combobox", name="Search").press_sequentially("item 1")
        expect(page.get_by_role("listbox", name="Suggestions").get_by_role("option").first).to_be_visible()
        refused = httpx.get(f"{origin}/v1/items/i3", headers={"Authorization": f"Bearer {key}"})
        assert refused.status_code == 401  # not from a page


def test_paths_of_the_storefront_never_repeat_the_host(shop: str) -> None:
    endpoint = shop.removesuffix("/shop/")
    for path in ("/shop", "/shop/.", "/shop//evil.example", "/shop/shop/x"):
        for method in ("GET", "POST"):
            answer = httpx.request(method, f"{endpoint}{path}", headers={"Host": "evil.example"})
            assert answer.status_code < 500, (method, path)
            assert "evil.example" not in answer.headers.get("location", ""), (method, path)


def test_the_storefront_is_off_by_default(tmp_path: Path, bundle: Path) -> None:
    install_bundle(tmp_path, bundle)
    port = find_free_port()
    with running_process(tmp_path, TOKEN, port):
        assert httpx.get(f"http://127.0.0.1:{port}/shop/").status_code == 404
