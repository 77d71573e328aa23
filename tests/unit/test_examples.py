"""Examples of recommendations show item titles only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsys_tasks.evaluation.examples import format_examples
from recsys_tasks.evaluation.metrics import MISSED
from recsys_tasks.evaluation.protocol import LIST_LENGTH, TEST, PredictionTasks, RankingResult, select_prediction_tasks
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, SEARCH, UNKNOWN_ITEM
from tests.shops import encoded_shop


@pytest.fixture(scope="module")
def shop() -> EncodedSnapshot:
    return encoded_shop()


def _format(encoded: EncodedSnapshot) -> str:
    def rank(tasks: PredictionTasks) -> RankingResult:
        listed = np.arange(FIRST_ITEM, FIRST_ITEM + LIST_LENGTH)
        return RankingResult(np.full(len(tasks), MISSED), np.tile(listed, (len(tasks), 1)))

    return format_examples(rank, encoded, select_prediction_tasks(encoded, TEST))


def _with_titles(encoded: EncodedSnapshot, titles: list[str]) -> EncodedSnapshot:
    return replace(encoded, vocabulary=replace(encoded.vocabulary, titles=tuple(titles)))


def test_an_example_lists_titles_of_the_past_the_session_and_five_recommendations(shop: EncodedSnapshot) -> None:
    text = _format(shop)
    assert text.count("next item: ") == 6
    best = [shop.vocabulary.title(number) for number in range(FIRST_ITEM, FIRST_ITEM + 5)]
    for example in text.split("**")[2::2]:
        listed = [line.removesuffix(" ✓") for line in example.splitlines() if line[:1].isdigit()]
        assert listed == [f"{position}. {title}" for position, title in enumerate(best, start=1)]


def test_searches_and_items_outside_the_vocabulary_are_left_out(shop: EncodedSnapshot) -> None:
    item, kind = shop.timeline.item.copy(), shop.timeline.kind.copy()
    item[::3], kind[::6] = UNKNOWN_ITEM, EVENT_TYPE_CODES[SEARCH]
    text = _format(replace(shop, timeline=replace(shop.timeline, item=item, kind=kind)))
    assert text.count("next item: ") == 6
    known = set(shop.vocabulary.titles)
    for line in text.splitlines():
        shown = line.partition(": ")[2] if ": " in line else line.partition(". ")[2].removesuffix(" ✓")
        if line[:1].isdigit() or line.startswith(("**", "session: ", "next item: ")):
            assert set(shown.split("; ")) <= known | {"nothing"}


def test_an_item_without_a_title_is_neither_listed_nor_the_next_item(shop: EncodedSnapshot) -> None:
    titles = [title if number % 2 else "" for number, title in enumerate(shop.vocabulary.titles)]
    text = _format(_with_titles(shop, titles))
    untitled = [item_id for item_id, title in zip(shop.vocabulary.item_ids, titles, strict=True) if not title]
    words = set(text.replace(";", " ").split())
    assert text.count("next item: ") == 6
    assert words.isdisjoint(untitled)


def test_a_shop_without_titles_has_no_examples(shop: EncodedSnapshot) -> None:
    text = _format(_with_titles(shop, [""] * len(shop.vocabulary.titles)))
    assert "next item: " not in text
    assert "has a next item with a title" in text


def test_a_title_is_escaped(shop: EncodedSnapshot) -> None:
    assert r"\*new\* \<b\>" in _format(_with_titles(shop, ["*new* <b>"] * len(shop.vocabulary.titles)))
