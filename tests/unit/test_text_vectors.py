from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from recsys_tasks.features.text_encoder import TextKind
from recsys_tasks.features.text_vectors import compose_item_text, encode_cached
from recsys_tasks.storage.folder import Folder


class LetterCounts:
    """Encodes a text by the counts of its letters; remembers what it encoded, and fails after `max_calls` calls."""

    def __init__(self, name: str = "letters-1", max_calls: int = 100) -> None:
        self.name, self.dimension, self.max_calls = name, 26, max_calls
        self.encoded: list[list[str]] = []

    def encode(self, texts: Sequence[str], kind: TextKind) -> np.ndarray:
        if len(self.encoded) == self.max_calls:
            raise InterruptedError
        self.encoded.append(list(texts))
        counts = np.asarray([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts])
        return np.asarray(counts / np.linalg.norm(counts, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize(
    ("title", "category_path", "brand", "expected"),
    [
        ("Chips, 7 OZ", "GROCERY > BAG SNACKS > CHIPS", "National", "Chips, bag snacks, grocery, National"),
        ("Shirt, 100% cotton", "Men > Shirts", "", "Shirt, 100% cotton, Shirts, Men"),
        ("超薄纸尿裤 L号", "母婴 > 纸尿裤", "", "超薄纸尿裤 L号, 母婴"),
        ("TV", "SALE > TV", "", "TV, sale"),
        ("", "Cameras", "", "Cameras"),
        ("", "", "", ""),
    ],
)
def test_the_text_of_an_item_says_everything_once(title: str, category_path: str, brand: str, expected: str) -> None:
    assert compose_item_text(title, category_path, brand) == expected


def test_items_that_differ_in_their_quantity_only_have_one_text() -> None:
    sizes = ["Butter, 8 OZ", "Butter, 1 LB", "Butter", "Butter, .5 LB", "Butter, 12/1 OZ"]
    assert {compose_item_text(title, "Dairy") for title in sizes} == {"Butter, Dairy"}


def test_a_text_is_encoded_once(tmp_path: Path) -> None:
    first, second = LetterCounts(), LetterCounts()
    texts = ["shoe", "", "bag", "shoe"]
    vectors = encode_cached(texts, first, Folder.of(tmp_path))
    again = encode_cached(["lamp", *texts], second, Folder.of(tmp_path))
    assert (first.encoded, second.encoded) == ([["bag", "shoe"]], [["lamp"]])
    np.testing.assert_array_equal(again[1:], vectors)
    np.testing.assert_allclose(vectors[[0, 2, 3]], LetterCounts().encode(["shoe", "bag", "shoe"], "passage"), atol=1e-3)
    assert not vectors[1].any()


def test_encoders_do_not_share_vectors(tmp_path: Path) -> None:
    encode_cached(["shoe"], LetterCounts("letters-1"), Folder.of(tmp_path))
    other = LetterCounts("letters-2")
    encode_cached(["shoe"], other, Folder.of(tmp_path))
    assert other.encoded == [["shoe"]]


def test_an_interrupted_encoding_goes_on_where_it_was(tmp_path: Path) -> None:
    texts = [f"{'ab' * (number % 7 + 1)}{number}" for number in range(3000)]
    interrupted, next_encoder = LetterCounts(max_calls=2), LetterCounts()
    with pytest.raises(InterruptedError):
        encode_cached(texts, interrupted, Folder.of(tmp_path))
    vectors = encode_cached(texts, next_encoder, Folder.of(tmp_path))
    done, rest = (list(chain(*encoder.encoded)) for encoder in (interrupted, next_encoder))
    assert done
    assert sorted([*done, *rest]) == sorted(texts)
    np.testing.assert_allclose(vectors, LetterCounts().encode(texts, "passage"), atol=1e-3)


def test_who_encodes_at_the_same_time_waits(tmp_path: Path) -> None:
    encoders = [LetterCounts() for _ in range(4)]
    texts = [f"item {number}" for number in range(500)]
    with ThreadPoolExecutor(len(encoders)) as pool:
        results = list(pool.map(lambda encoder: encode_cached(texts, encoder, Folder.of(tmp_path)), encoders))
    assert sum(len(encoder.encoded) for encoder in encoders) == 1
    assert all(np.array_equal(result, results[0]) for result in results)
