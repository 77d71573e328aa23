"""Session-wide bundles: training and exporting even a small model takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.bundles import small_bundle


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles with model versions 1 and 2."""
    return [small_bundle(tmp_path_factory.mktemp(f"bundle{n}"), str(n), n) for n in (1, 2)]
