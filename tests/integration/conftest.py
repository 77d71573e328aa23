"""Session-wide bundles: training and exporting even a small model takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.bundles import small_bundle
from tests.shops import build_once


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles with model versions 1 and 2."""
    return [
        build_once(tmp_path_factory, f"bundle{n}", lambda folder, n=n: small_bundle(folder, str(n), n))  # type: ignore[misc]
        for n in (1, 2)
    ]
