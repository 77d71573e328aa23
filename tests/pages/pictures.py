"""Takes the pictures of the docs from a running stack.

`make pictures` does so with the stack of `make run`, once its loop has closed. The end-to-end test runs the same code
with its own stack and keeps nothing.
"""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from recsys_tasks.settings import settings
from recsys_tasks.stack.environment import load_ports, load_secrets
from tests.pages.browser import new_page, running_browser

_DOCS = Path(__file__).parents[2] / "docs"
_SIZE = {"width": 1280, "height": 860}


def take_pictures(home: Path, folder: Path) -> None:
    """Writes `storefront.png` and `console.png` of the stack that runs in a home folder."""
    ports = load_ports(home)
    with running_browser() as browser:
        _take_storefront(browser, f"{ports.url('endpoint')}/shop/", folder / "storefront.png")
        _take_console(
            browser, f"{ports.url('console')}/console/", load_secrets(home)["admin_token"], folder / "console.png"
        )


def _take_storefront(browser: Browser, address: str, path: Path) -> None:
    """A product that a household found by searching."""
    with new_page(browser, viewport=_SIZE) as page:
        page.goto(address)
        expect(page.locator(".card").first).to_be_visible()
        page.get_by_label("Shop as").select_option(index=1)
        page.get_by_role("combobox", name="Search").fill("cheese")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("heading", name="cheese").wait_for()
        page.locator(".card a").first.click()
        expect(page.locator("article")).to_be_visible()
        page.wait_for_load_state("networkidle")
        page.screenshot(path=path)


def _take_console(browser: Browser, address: str, token: str, path: Path) -> None:
    """The overview."""
    with new_page(browser, viewport=_SIZE) as page:
        page.goto(address)
        page.get_by_label("Your name").fill("operator")
        page.get_by_label("Admin token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Overview").wait_for()
        page.screenshot(path=path)


if __name__ == "__main__":
    take_pictures(settings().home, _DOCS)
