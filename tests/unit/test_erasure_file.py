"""Erasures by a file of user ids, which is in one folder and may come from any editor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from recsys_tasks.errors import InputError
from recsys_tasks.settings import Settings
from recsys_tasks.steps import erasure


@pytest.fixture
def erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that were erased."""
    found: list[str] = []

    def erase(user_ids: Sequence[str]) -> erasure.ErasureReport:
        found.extend(user_ids)
        return erasure.ErasureReport(0, 0, 0)

    (tmp_path / "forget").mkdir()
    monkeypatch.setattr(erasure, "settings", lambda: Settings(home=tmp_path))
    monkeypatch.setattr(erasure, "erase_users", erase)
    return found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_each_line_is_an_id_and_the_file_is_deleted_when_asked(
    tmp_path: Path, erased: list[str], encoding: str
) -> None:
    file = tmp_path / "forget" / "today.txt"
    file.write_text("u1\n u2 \n\n", encoding=encoding)
    erasure.erase_users_in_file("today.txt")
    assert erased == ["u1", "u2"]
    assert file.exists()
    for _ in range(2):
        erasure.delete_erasure_file("today.txt")
    assert not file.exists()


@pytest.mark.parametrize("name", ["../keys.toml", "/etc/hostname", "missing.txt", "empty.txt"])
def test_other_files_are_neither_read_nor_deleted(tmp_path: Path, erased: list[str], name: str) -> None:
    (tmp_path / "forget" / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "keys.toml").write_text("key", encoding="utf-8")
    with pytest.raises(InputError):
        erasure.erase_users_in_file(name)
    assert erased == []
    if name == "../keys.toml":
        with pytest.raises(InputError, match="is not in"):
            erasure.delete_erasure_file(name)
        assert (tmp_path / "keys.toml").exists()
