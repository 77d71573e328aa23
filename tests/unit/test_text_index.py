"""Full-text search in any language."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recsys_tasks.engine.text_index import TextIndex
from recsys_tasks.features.vocabulary import Vocabulary
from tests.shops import vocabulary

TITLES = {
    "thinkpad": "联想 ThinkPad 笔记本电脑 14 英寸",
    "zenbook": "ASUS Zenbook 14 laptop",
    "stand": "铝合金笔记本支架 电脑配件",
    "cable": "USB-C 数据线 电脑配件",
    "mouse": "罗技 G502 游戏鼠标",
    "pad": "游戏鼠标垫",
    "office_mouse": "Logitech M185 wireless mouse",
    "mug": "Tasse à café, rouge",
    "tea": "Зелёный чай",
}


@pytest.fixture(scope="module")
def index() -> TextIndex:
    return TextIndex(_shop())


def _shop() -> Vocabulary:
    count = len(TITLES)
    return replace(
        vocabulary(count),
        item_ids=tuple(TITLES),
        titles=tuple(TITLES.values()),
        category_paths=tuple("Kitchen > Cups" if name in ("mug", "tea") else "Electronics" for name in TITLES),
        brands=tuple("Logitech" if name == "mouse" else "" for name in TITLES),
    )


def _search(index: TextIndex, query: str) -> list[str]:
    numbers, scores = index.search(query, 100)
    assert list(scores) == sorted(scores, reverse=True)
    return [_shop().item_id(int(number)) for number in numbers]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("笔记本电脑", ["thinkpad"]),
        ("电脑配件", ["cable", "stand"]),
        ("游戏鼠标", ["mouse", "pad"]),
        ("THINKPAD 笔记本", ["thinkpad"]),
        ("laptop 14", ["zenbook"]),
        ("ｌａｐｔｏｐ", ["zenbook"]),  # full width
        ("wireless mouse", ["office_mouse"]),
        ("cafe rouge", ["mug"]),
        ("зеленый чай", ["tea"]),
        ("logitech 鼠标", ["mouse"]),
        ("cups", ["mug"]),
    ],
)
def test_the_best_matches_come_first(index: TextIndex, query: str, first: list[str]) -> None:
    assert set(_search(index, query)[: len(first)]) == set(first)


@pytest.mark.parametrize(
    ("query", "first"), [("lapotp", "zenbook"), ("logitehc mouse", "office_mouse"), ("Zenbok", "zenbook")]
)
def test_a_misspelled_word_matches_at_small_edit_distance(index: TextIndex, query: str, first: str) -> None:
    assert _search(index, query)[0] == first


@pytest.mark.parametrize("query", ["", "   ", "!?", "teapot", "冰箱", "\x00", "a" * 1_000, "AND OR NOT (", "title:*"])
def test_a_query_without_matches_returns_no_item(index: TextIndex, query: str) -> None:
    assert _search(index, query) == []


def test_at_most_k_items_are_returned(index: TextIndex) -> None:
    assert len(index.search("电脑", 1)[0]) == 1
