"""One browser for the browser tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.integration.bundles import small_bundle
from tests.pages.browser import running_browser
from tests.shops import build_once


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine. Playwright's event loop runs as long as it does: not in tests of other modules."""
    with running_browser() as found:
        yield found


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small model; the tests of endpoints have the same."""
    return build_once(tmp_path_factory, "bundle1", lambda folder: small_bundle(folder, "1", 1))
