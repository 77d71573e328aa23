"""Packages with entry points, installed for a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    patch: pytest.MonkeyPatch, folder: Path, name: str, code: str, entry_points: Mapping[str, Mapping[str, str]]
) -> None:
    """Installs a package of one module for the rest of a test.

    Args:
        patch: undoes it.
        folder: to install to.
        name: of the module.
        code: of the module.
        entry_points: by group and name, such as `{"recsys_tasks.models": {"lightgcn": "module:fit"}}`.
    """
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    patch.syspath_prepend(str(folder))
