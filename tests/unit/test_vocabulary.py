from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.features.sequences import QUERY_WORDS
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.files import TrainedModel, warm_start
from recsys_tasks.model.training_loop import build_network
from recsys_tasks.names import FIRST_ITEM, UNKNOWN_ITEM
from tests.shops import small_config, vocabulary


def test_an_item_that_is_not_known_has_the_number_of_unknown() -> None:
    words = vocabulary()
    assert words.numbers(["i0", "nothing", None, "i39"]).tolist() == [
        FIRST_ITEM,
        UNKNOWN_ITEM,
        UNKNOWN_ITEM,
        FIRST_ITEM + 39,
    ]


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    words = vocabulary()
    words.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == words


def test_content_is_what_two_items_or_more_share() -> None:
    words = vocabulary()
    content = words.content()
    assert (content[:FIRST_ITEM] == 0).all()
    names = [{words.content_names[token] for token in row if token} for row in content[FIRST_ITEM:].tolist()]
    assert names[0] == {"category=D0 > C0", "item", "red"}
    assert names[3] == {"category=D1 > C3", "item", "yellow"}


def test_a_query_has_the_numbers_of_the_words_that_titles_share() -> None:
    words = vocabulary()
    found = [words.content_names[number] for number in words.words_of("The RED item, please") if number]
    assert found == ["red", "item"]
    rows, row_of = words.query_words(["red", "", "blue item", "red", "teapot"])
    assert rows.shape == (3, QUERY_WORDS)
    assert row_of[0] == row_of[3] != row_of[2]
    assert (rows[row_of[[1, 4]]] == 0).all()


@given(st.lists(st.text(), min_size=1, max_size=6))
def test_titles_in_any_language_are_content_and_are_found_by_queries(titles: list[str]) -> None:
    words = replace(vocabulary(2 * len(titles)), titles=(*titles, *titles))
    network = build_network(small_config(words, width=8, query_words=QUERY_WORDS), words)
    assert torch.isfinite(network.items.matrix()).all()
    for row, title in enumerate(titles):
        asked, row_of = words.query_words([title])
        found = set(asked[row_of[0]].tolist()) - {0}
        assert found <= set(words.content()[FIRST_ITEM + row].tolist())


def test_where_no_query_has_a_word_of_a_title_none_is_read() -> None:
    rows, row_of = vocabulary().query_words(["teapot", ""])
    assert rows.shape == (1, 0)
    assert row_of.tolist() == [0, 0]


def test_an_item_without_content_has_none() -> None:
    words = replace(vocabulary(3), titles=("", "red mug", "Red mug"), category_paths=("", "", ""))
    assert words.content_names == ("", "mug", "red")
    assert words.content()[FIRST_ITEM:].tolist() == [[0, 0], [2, 1], [2, 1]]


def test_a_new_vocabulary_takes_over_the_rows_of_items_both_know() -> None:
    old, new = vocabulary(10), vocabulary(12)
    champion = TrainedModel(build_network(small_config(old), old), old)
    names = ("item_ids", "titles", "category_paths", "brands", "counts")
    reordered = Vocabulary(*(tuple(reversed(getattr(new, name))) for name in names))
    network = build_network(small_config(reordered), reordered)
    assert warm_start(network, reordered, champion) == 10
    for item_id in old.item_ids:
        mine = network.items.own.weight[reordered.number_of[item_id]]
        theirs = champion.network.items.own.weight[old.number_of[item_id]]
        assert torch.equal(mine, theirs)
    for row, name in enumerate(reordered.content_names):
        if name not in old.content_names:
            continue
        theirs = champion.network.items.of_content.weight[old.content_names.index(name)]
        assert torch.equal(network.items.of_content.weight[row], theirs)


@pytest.mark.parametrize("champion_has_content", [True, False])
def test_weights_are_taken_over_though_only_one_of_the_vocabularies_has_content(champion_has_content: bool) -> None:
    described = vocabulary(10)
    bare = replace(described, titles=("",) * 10, category_paths=("",) * 10)
    old, new = (described, bare) if champion_has_content else (bare, described)
    champion, network = (
        build_network(small_config(words, content_tokens=len(words.content_names) if words is described else 0), words)
        for words in (old, new)
    )
    own_content = None if champion_has_content else network.items.of_content.weight.clone()
    assert warm_start(network, new, TrainedModel(champion, old)) == 10
    assert torch.equal(network.items.own.weight, champion.items.own.weight)
    assert torch.equal(network.items.bias, champion.items.bias)
    if own_content is not None:  # of which the champion knows nothing
        assert torch.equal(network.items.of_content.weight, own_content)
    assert torch.isfinite(network.items.matrix()).all()
