"""A search index on disk: written once, opened by several processes, and refused if it is damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from recsys_tasks.errors import SearchIndexUnusable
from recsys_tasks.search.documents import ItemText
from recsys_tasks.search.index import SearchIndex
from recsys_tasks.search.index_files import link_index, write_index
from recsys_tasks.search.settings import read_search_settings

SETTINGS = read_search_settings(None)
TITLES = ("Green tea", "Black tea", "Coffee beans")


def _texts(titles: Sequence[str], first: int = 0) -> list[ItemText]:
    return [ItemText(number, title, "Acme", ["Drinks"], "", "") for number, title in enumerate(titles, start=first)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    write_index(folder, SETTINGS, _texts(TITLES), TITLES, lambda: None)
    return folder


def _find(index: SearchIndex, query: str) -> list[int]:
    return sorted(index.find(query, 10).numbers.tolist())


def test_an_index_is_opened_as_it_was_written(folder: Path) -> None:
    index = SearchIndex(folder, SETTINGS)
    assert _find(index, "tea") == [0, 1]
    assert _find(index, "cofee") == [2], "corrections know the words"
    assert index.find("drinks", 10).name.tolist() == [1.0] * 3, "categories are known"


def test_items_that_are_put_later_do_not_change_the_folder(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    first, second = SearchIndex(folder, SETTINGS), SearchIndex(folder, SETTINGS)
    first.put(_texts(["Herbal tea"], first=3))
    first.put(_texts(["Cocoa"], first=0))
    assert (_find(first, "tea"), _find(first, "cocoa")) == ([1, 3], [0])
    assert (_find(second, "tea"), _find(second, "cocoa")) == ([0, 1], [])
    second.put(_texts(["White tea"], first=3))
    assert (_find(second, "tea"), _find(first, "tea")) == ([0, 1, 3], [1, 3])
    after = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".lock"}
    assert after == before


def test_private_copies_are_removed_with_their_index(folder: Path) -> None:
    index = SearchIndex(folder, SETTINGS)
    index.put(_texts(["Herbal tea"], first=3))
    assert len(list(folder.parent.iterdir())) == 2
    del index
    assert list(folder.parent.iterdir()) == [folder]


def test_a_linked_index_is_independent(folder: Path, tmp_path: Path) -> None:
    link_index(folder, tmp_path / "other")
    first, second = SearchIndex(folder, SETTINGS), SearchIndex(tmp_path / "other", SETTINGS)
    first.put(_texts(["Herbal tea"], first=3))
    second.put(_texts(["White tea"], first=4))
    assert (_find(first, "tea"), _find(second, "tea")) == ([0, 1, 3], [0, 1, 4])


def test_an_existing_folder_is_not_linked_over(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_index(other, SETTINGS, _texts(["Juice"]), TITLES, lambda: None)
    with pytest.raises(FileExistsError):
        link_index(folder, other)
    assert (_find(SearchIndex(other, SETTINGS), "juice"), _find(SearchIndex(folder, SETTINGS), "tea")) == ([0], [0, 1])


@pytest.mark.parametrize("suffix", ["idx", "term", "pos", "fast", "fieldnorm", "json", "npz"])
@pytest.mark.parametrize("damage", ["changed", "cut", "removed"])
def test_a_damaged_file_is_refused(folder: Path, suffix: str, damage: str) -> None:
    file = next(file for file in folder.iterdir() if file.name.endswith(f".{suffix}"))
    content = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] + b"?" * (damage == "changed"))
    with pytest.raises(SearchIndexUnusable, match="search index"):
        SearchIndex(folder, SETTINGS)


def test_an_index_of_other_languages_is_refused(folder: Path) -> None:
    german = msgspec.structs.replace(SETTINGS, languages=["german"])
    with pytest.raises(SearchIndexUnusable, match="languages"):
        SearchIndex(folder, german)


def test_an_index_is_replaced_as_a_whole(folder: Path) -> None:
    write_index(folder, SETTINGS, _texts(["Juice"]), TITLES, lambda: None)
    assert (_find(SearchIndex(folder, SETTINGS), "juice"), _find(SearchIndex(folder, SETTINGS), "tea")) == ([0], [])
    assert list(folder.parent.iterdir()) == [folder]
