from dataclasses import replace
from pathlib import Path
from typing import Any

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


def test_an_item_outside_the_vocabulary_has_the_unknown_number() -> None:
    words = vocabulary()
    assert words.numbers(["i0", "nothing", None, "i39"]).tolist() == [
        FIRST_ITEM,
        UNKNOWN_ITEM,
        UNKNOWN_ITEM,
        FIRST_ITEM + 39,
    ]


def test_a_saved_vocabulary_is_read_back(tmp_path: Path) -> None:
    words = vocabulary()
    words.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == words


def test_content_tokens_are_shared_by_at_least_two_items() -> None:
    words = vocabulary()
    content = words.content_matrix()
    assert (content[:FIRST_ITEM] == 0).all()
    names = [{words.token_names[token] for token in row if token} for row in content[FIRST_ITEM:].tolist()]
    assert names[0] == {"category=D0 > C0", "item", "red"}
    assert names[3] == {"category=D1 > C3", "item", "yellow"}


def test_a_query_is_encoded_by_the_words_known_from_titles() -> None:
    words = vocabulary()
    found = [words.token_names[number] for number in words.encode_query("The RED item, please") if number]
    assert found == ["red", "item"]
    rows, row_of = words.encode_queries(["red", "", "blue item", "red", "teapot"])
    assert rows.shape == (3, QUERY_WORDS)
    assert row_of[0] == row_of[3] != row_of[2]
    assert (rows[row_of[[1, 4]]] == 0).all()


@given(st.lists(st.text(), min_size=1, max_size=6))
def test_titles_in_any_language_become_content_tokens_that_queries_match(titles: list[str]) -> None:
    words = replace(vocabulary(2 * len(titles)), titles=(*titles, *titles))
    network = build_network(small_config(words, embedding_dim=8, query_words=QUERY_WORDS), words)
    assert torch.isfinite(network.items.matrix()).all()
    for row, title in enumerate(titles):
        rows, row_of = words.encode_queries([title])
        found = set(rows[row_of[0]].tolist()) - {0}
        assert found <= set(words.content_matrix()[FIRST_ITEM + row].tolist())


def test_queries_without_known_words_have_no_word_columns() -> None:
    rows, row_of = vocabulary().encode_queries(["teapot", ""])
    assert rows.shape == (1, 0)
    assert row_of.tolist() == [0, 0]


def test_an_item_without_text_has_no_content_tokens() -> None:
    words = replace(vocabulary(3), titles=("", "red mug", "Red mug"), category_paths=("", "", ""))
    assert words.token_names == ("", "mug", "red")
    assert words.content_matrix()[FIRST_ITEM:].tolist() == [[0, 0], [2, 1], [2, 1]]


def test_warm_start_copies_the_embeddings_of_shared_items() -> None:
    old, new = vocabulary(10), vocabulary(12)
    champion = TrainedModel(build_network(small_config(old), old), old)
    names = ("item_ids", "titles", "category_paths", "brands", "counts")
    columns: dict[str, Any] = {name: tuple(reversed(getattr(new, name))) for name in names}
    reordered = replace(new, **columns)
    network = build_network(small_config(reordered), reordered)
    assert warm_start(network, reordered, champion) == 10
    for item_id in old.item_ids:
        mine = network.items.embedding.weight[reordered.number_of[item_id]]
        theirs = champion.network.items.embedding.weight[old.number_of[item_id]]
        assert torch.equal(mine, theirs)
    for row, name in enumerate(reordered.token_names):
        if name not in old.token_names:
            continue
        theirs = champion.network.items.content_embedding.weight[old.token_names.index(name)]
        assert torch.equal(network.items.content_embedding.weight[row], theirs)


@pytest.mark.parametrize("spaces", [{"image v1": 6}, {"image v2": 6}, {"sound": 3, "image v1": 6}, {}])
def test_warm_start_keeps_known_vector_spaces_and_moves_no_item_by_others(spaces: dict[str, int]) -> None:
    words = vocabulary(10)
    champion = build_network(small_config(words, vector_spaces=spaces), words)
    network = build_network(small_config(words, vector_spaces={"image v1": 6, "text": 2}), words)
    vectors = torch.randn_like(network.items.spaces)
    network.items.spaces.copy_(vectors)
    if "image v1" in spaces:
        champion.items.spaces[:, -6:] = vectors[:, :6]
    warm_start(network, words, TrainedModel(champion, words))
    assert torch.equal(network.items.spaces, vectors)
    assert torch.allclose(network.eval().items.matrix(), champion.eval().items.matrix(), atol=1e-6)


@pytest.mark.parametrize("champion_has_content", [True, False])
def test_warm_start_copies_weights_when_only_one_vocabulary_has_content(champion_has_content: bool) -> None:
    described = vocabulary(10)
    bare = replace(described, titles=("",) * 10, category_paths=("",) * 10)
    old, new = (described, bare) if champion_has_content else (bare, described)
    champion, network = (
        build_network(
            small_config(words, num_content_tokens=len(words.token_names) if words is described else 0), words
        )
        for words in (old, new)
    )
    own_content = None if champion_has_content else network.items.content_embedding.weight.clone()
    assert warm_start(network, new, TrainedModel(champion, old)) == 10
    assert torch.equal(network.items.embedding.weight, champion.items.embedding.weight)
    assert torch.equal(network.items.bias, champion.items.bias)
    if own_content is not None:  # the champion has no content tokens to copy
        assert torch.equal(network.items.content_embedding.weight, own_content)
    assert torch.isfinite(network.items.matrix()).all()
