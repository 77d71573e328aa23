"""Checks of an installation: one line per part, and what to do about a missing one."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from recsys_tasks.settings import Settings
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.steps import installation


def _check(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> dict[str, tuple[bool, str]]:
    monkeypatch.setattr(installation, "settings", lambda: settings)
    return {check.part: (check.is_ok, check.finding) for check in installation.check_installation()}


def test_a_complete_installation_has_its_versions(
    warehouse: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = warehouse.url.render_as_string(hide_password=False)
    found = _check(monkeypatch, Settings(home=tmp_path, warehouse_url=url, endpoint_urls=(), admin_token="t"))  # noqa: S106
    assert {part: is_ok for part, (is_ok, _) in found.items()} == dict.fromkeys(found, True)
    assert found["warehouse"][1].startswith("PostgreSQL ")
    assert list(tmp_path.iterdir()) == []


def test_each_missing_part_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = f"127.0.0.1:{find_free_port()}"
    home = tmp_path / "file"
    home.write_text("", encoding="utf-8")
    found = _check(
        monkeypatch,
        Settings(
            home=home,
            warehouse_url=f"postgresql+psycopg://shop:secret@{closed}/warehouse",
            mlflow_tracking_uri=f"http://{closed}",
            endpoint_urls=(f"http://{closed}",),
            admin_token="token",  # noqa: S106
        ),
    )
    missing = {part: finding for part, (is_ok, finding) in found.items() if not is_ok}
    assert set(missing) == {"RECSYS_HOME", "warehouse", "MLflow", "endpoints"}
    assert all(len(finding.splitlines()) == 1 for finding in missing.values())
    assert "secret" not in str(missing)
    assert "RECSYS_WAREHOUSE_URL" in missing["warehouse"]


def test_a_missing_token_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "RECSYS_ADMIN_TOKEN" in _check(monkeypatch, Settings(home=tmp_path, admin_token=None))["endpoints"][1]
