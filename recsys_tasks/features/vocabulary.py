"""The item vocabulary of a model: item numbers, texts, training counts and content tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from recsys_tasks.errors import InvariantError
from recsys_tasks.features.sequences import QUERY_WORDS
from recsys_tasks.features.tokenization import tokenize
from recsys_tasks.names import CATEGORY_SEPARATOR, FIRST_ITEM, UNKNOWN_ITEM

_MAX_TOKENS = 16
_STORED_TOKENS = "token_names"
_ITEMS_PER_STEP = 500  # between two calls of `pause`


@dataclass(frozen=True)
class Vocabulary:
    """Items ordered by number, from `FIRST_ITEM` on; the most frequent item comes first.

    Attributes:
        item_ids, titles, category_paths, brands: one entry per item; empty text for unknown.
        counts: number of training events of each item.
        attributes: names of further attributes of each item; empty if no item has any.
        num_untrained: number of items at the end that have too few training events for an embedding of their own.
        query_words: words of search queries; those outside the items' texts have token numbers too.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    category_paths: tuple[str, ...]
    brands: tuple[str, ...]
    counts: tuple[int, ...]
    attributes: tuple[tuple[str, ...], ...] = ()
    num_untrained: int = 0
    query_words: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of item numbers V, including padding and the unknown item."""
        return len(self.item_ids) + FIRST_ITEM

    @property
    def num_trained(self) -> int:
        """Number of item numbers with an embedding of their own, including padding and the unknown item."""
        return len(self) - self.num_untrained

    @cached_property
    def number_of(self) -> dict[str, int]:
        """Item number of each item id."""
        return dict(zip(self.item_ids, range(FIRST_ITEM, len(self)), strict=True))

    def numbers(self, item_ids: Sequence[str | None]) -> np.ndarray:
        """Returns the numbers [N] of item ids; `UNKNOWN_ITEM` for ids outside the vocabulary."""
        number_of = self.number_of
        return np.fromiter((number_of.get(i or "", UNKNOWN_ITEM) for i in item_ids), np.int64, len(item_ids))

    def item_id(self, number: int) -> str:
        """Returns the item id of a number."""
        return self.item_ids[number - FIRST_ITEM]

    def title(self, number: int) -> str:
        """Returns the title of a number's item, or its id if it has no title."""
        return self.titles[number - FIRST_ITEM] or self.item_id(number)

    def with_items(self, updates: Mapping[str, tuple[str, str, str]]) -> Vocabulary:
        """Returns a vocabulary with updated items; new items are appended.

        Existing item and token numbers do not change.

        Args:
            updates: title, category path and brand by item id.
        """
        added = [item_id for item_id in updates if item_id not in self.number_of]
        columns = [[*column, *[""] * len(added)] for column in (self.titles, self.category_paths, self.brands)]
        number_of = {**self.number_of, **{item_id: n for n, item_id in enumerate(added, start=len(self))}}
        for item_id, texts in updates.items():
            for column, text in zip(columns, texts, strict=True):
                column[number_of[item_id] - FIRST_ITEM] = text
        titles, category_paths, brands = (tuple(column) for column in columns)
        no_attributes = [()] * len(added) if self.attributes else []
        updated = Vocabulary(
            (*self.item_ids, *added),
            titles,
            category_paths,
            brands,
            (*self.counts, *[0] * len(added)),
            (*self.attributes, *no_attributes),
            self.num_untrained + len(added),
            self.query_words,
        )
        # Copies the cached token numbers: computed again, they would depend on the added items.
        cached = {_STORED_TOKENS: self.token_names, "_token_number": self._token_number}
        updated.__dict__.update(number_of=number_of, **cached)
        return updated

    def item_content(self, number: int) -> np.ndarray:
        """Returns the numbers [A] of one item's content tokens, without tokens unknown from training."""
        row = number - FIRST_ITEM
        attributes = self.attributes[row] if self.attributes else ()
        tokens = content_tokens(self.titles[row], self.category_paths[row], self.brands[row], attributes)
        numbers = [self._token_number[token] for token in tokens if token in self._token_number]
        return np.asarray(numbers[:_MAX_TOKENS], np.int64)

    def training_counts(self) -> np.ndarray:
        """Returns the training counts by item number [V]; zero for padding and the unknown item."""
        return np.concatenate([np.zeros(FIRST_ITEM, np.int64), np.asarray(self.counts, np.int64)])

    @cached_property
    def token_names(self) -> tuple[str, ...]:
        """Tokens that at least two items with training events share, and words of queries, ordered by token number;
        number 0 is the empty token. Without any training event, all items count.
        """
        return self._collect_content_tokens(lambda: None)

    def prepare_content_tokens(self, pause: Callable[[], None]) -> None:
        """Computes `token_names` ahead of its first use, calling `pause` every 500 items."""
        if _STORED_TOKENS not in self.__dict__:
            self.__dict__[_STORED_TOKENS] = self._collect_content_tokens(pause)

    def _collect_content_tokens(self, pause: Callable[[], None]) -> tuple[str, ...]:
        item_counts, any_trained = Counter[str](), any(self.counts)
        for index, (tokens, count) in enumerate(zip(self._tokens(), self.counts, strict=True), start=1):
            if count or not any_trained:
                item_counts.update(tokens)
            if index % _ITEMS_PER_STEP == 0:
                pause()
        shared = {token for token, count in item_counts.items() if count > 1}
        return ("", *sorted(shared.union(self.query_words)))

    def content_matrix(self) -> np.ndarray:
        """Returns the numbers of each item's content tokens [V, A], 0 for padding.

        Their order is categories, brand, attributes, words of the title.
        """
        number = self._token_number
        rows = [[number[token] for token in tokens if token in number][:_MAX_TOKENS] for tokens in self._tokens()]
        matrix = np.zeros((len(self), max((len(row) for row in rows), default=0)), np.int64)
        for item, row in enumerate(rows, start=FIRST_ITEM):
            matrix[item, : len(row)] = row
        return matrix

    def encode_query(self, query: str) -> np.ndarray:
        """Returns the token numbers of a query's words [QUERY_WORDS], without unknown words, 0 for padding."""
        numbers = [self._token_number[word] for word in tokenize(query) if word in self._token_number]
        return np.pad(np.asarray(numbers[:QUERY_WORDS], np.int64), (0, QUERY_WORDS - min(len(numbers), QUERY_WORDS)))

    def encode_queries(self, queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the distinct encoded queries [Q, A] and the row of each query [N]; row 0 has no word.

        A is 0 if no query has a known word.
        """
        encoded = np.asarray([self.encode_query(query) for query in queries]).reshape(-1, QUERY_WORDS)
        if not encoded.any():
            return np.zeros((1, 0), np.int64), np.zeros(len(queries), np.int64)
        rows, row_of = np.unique(
            np.concatenate([np.zeros((1, QUERY_WORDS), np.int64), encoded]), axis=0, return_inverse=True
        )
        return rows, row_of.reshape(-1)[1:]

    @cached_property
    def _token_number(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.token_names) if token}

    def _tokens(self) -> Iterator[list[str]]:
        attributes = self.attributes or ((),) * len(self.item_ids)
        columns = zip(self.titles, self.category_paths, self.brands, attributes, strict=True)
        return (content_tokens(*column) for column in columns)

    def save(self, path: Path) -> None:
        """Writes the vocabulary as JSON, with the token names, which take long to collect from many items."""
        columns = {name: getattr(self, name) for name in (*self.__dataclass_fields__, _STORED_TOKENS)}
        path.write_text(json.dumps(columns, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads a file written by `save`.

        Raises:
            InvariantError: the columns differ in length.
        """
        columns = json.loads(path.read_bytes())
        token_names = columns.pop(_STORED_TOKENS, None)
        num_untrained = columns.pop("num_untrained", 0)
        attributes = tuple(tuple(names) for names in columns.pop("attributes", ()))
        query_words = tuple(columns.pop("query_words", ()))
        if len({len(column) for column in columns.values()}) != 1 or len(attributes) not in (0, len(columns["counts"])):
            raise InvariantError(f"{path}: the columns of the vocabulary differ in length")
        texts = {name: tuple(column) for name, column in columns.items()}
        vocabulary = cls(**texts, attributes=attributes, num_untrained=num_untrained, query_words=query_words)
        if token_names is not None:
            vocabulary.__dict__[_STORED_TOKENS] = tuple(token_names)
        return vocabulary


def content_tokens(title: str, category_path: str, brand: str, attributes: Sequence[str] = ()) -> list[str]:
    """Returns an item's distinct content tokens, as `kind=value`; words of the title have no kind."""
    top_categories = CATEGORY_SEPARATOR.join(category_path.split(CATEGORY_SEPARATOR)[:2])
    kinds = [("category", top_categories), ("category", category_path), ("brand", brand)]
    tokens = [f"{kind}={value}" for kind, value in kinds if value] + [f"attribute={name}" for name in attributes]
    return list(dict.fromkeys([*tokens, *tokenize(title)]))
