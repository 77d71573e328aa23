"""The items a model knows, by the numbers it knows them by."""

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
from recsys_tasks.features.tokenization import words
from recsys_tasks.names import FIRST_ITEM, UNKNOWN_ITEM

_PATH_SEPARATOR = " > "
_MOST_TOKENS = 16
_PIECE = 500  # items


@dataclass(frozen=True)
class Vocabulary:
    """Items in the order of their numbers (the first one is number `FIRST_ITEM`), most frequent first.

    Attributes:
        item_ids, titles, category_paths, brands: one entry an item; what is not known is empty.
        counts: how often each was acted on in training.
        attributes: names of other properties of each item; empty for a vocabulary without any.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    category_paths: tuple[str, ...]
    brands: tuple[str, ...]
    counts: tuple[int, ...]
    attributes: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        """How many numbers there are, those of padding and unknown items among them."""
        return len(self.item_ids) + FIRST_ITEM

    @cached_property
    def number_of(self) -> dict[str, int]:
        """The number of each item id."""
        return {item_id: number for number, item_id in enumerate(self.item_ids, start=FIRST_ITEM)}

    def numbers(self, item_ids: Sequence[str | None]) -> np.ndarray:
        """Numbers of item ids [N]; `UNKNOWN_ITEM` for those that are not in the vocabulary."""
        known = self.number_of
        return np.fromiter((known.get(i or "", UNKNOWN_ITEM) for i in item_ids), np.int64, len(item_ids))

    def item_id(self, number: int) -> str:
        """The item of a number."""
        return self.item_ids[number - FIRST_ITEM]

    def title(self, number: int) -> str:
        """The title of a number's item, or its id where it has none."""
        return self.titles[number - FIRST_ITEM] or self.item_id(number)

    def with_items(self, told: Mapping[str, tuple[str, str, str]]) -> Vocabulary:
        """The same with titles, category paths and brands of some items told anew; those not known come at the end.

        Numbers stay as they are, of tokens too.
        """
        later = [item_id for item_id in told if item_id not in self.number_of]
        columns = [[*column, *[""] * len(later)] for column in (self.titles, self.category_paths, self.brands)]
        number_of = {**self.number_of, **{item_id: n for n, item_id in enumerate(later, start=len(self))}}
        for item_id, texts in told.items():
            for column, text in zip(columns, texts, strict=True):
                column[number_of[item_id] - FIRST_ITEM] = text
        titles, category_paths, brands = (tuple(column) for column in columns)
        nothing = [()] * len(later) if self.attributes else []
        found = Vocabulary(
            (*self.item_ids, *later),
            titles,
            category_paths,
            brands,
            (*self.counts, *[0] * len(later)),
            (*self.attributes, *nothing),
        )
        # Made anew, tokens would be numbered by what the later items have.
        kept = {"content_names": self.content_names, "_number_of_token": self._number_of_token}
        found.__dict__.update(number_of=number_of, **kept)
        return found

    def content_of(self, number: int) -> np.ndarray:
        """Numbers of one item's content tokens [A], those that items of the training have."""
        place = number - FIRST_ITEM
        attributes = self.attributes[place] if self.attributes else ()
        tokens = content_tokens(self.titles[place], self.category_paths[place], self.brands[place], attributes)
        known = [self._number_of_token[token] for token in tokens if token in self._number_of_token]
        return np.asarray(known[:_MOST_TOKENS], np.int64)

    def all_counts(self) -> np.ndarray:
        """Training counts [V] by number; zero for padding and unknown."""
        return np.concatenate([np.zeros(FIRST_ITEM, np.int64), np.asarray(self.counts, np.int64)])

    @cached_property
    def content_names(self) -> tuple[str, ...]:
        """Tokens that two items or more have, in the order of their numbers; number 0 is none."""
        return self._named(lambda: None)

    def find_content_names(self, pause: Callable[[], None]) -> None:
        """Makes `content_names` ready in pieces, with a pause after each; otherwise who asks first waits for them."""
        if "content_names" not in self.__dict__:
            self.__dict__["content_names"] = self._named(pause)

    def _named(self, pause: Callable[[], None]) -> tuple[str, ...]:
        items = Counter[str]()
        for number, tokens in enumerate(self._tokens(), start=1):
            items.update(tokens)
            if number % _PIECE == 0:
                pause()
        return ("", *sorted(token for token, count in items.items() if count > 1))

    def content(self) -> np.ndarray:
        """Numbers of each item's content tokens [V, A]: categories, brand, attributes, then words of the title."""
        number = self._number_of_token
        rows = [[number[token] for token in tokens if token in number][:_MOST_TOKENS] for tokens in self._tokens()]
        found = np.zeros((len(self), max((len(row) for row in rows), default=0)), np.int64)
        for place, row in enumerate(rows, start=FIRST_ITEM):
            found[place, : len(row)] = row
        return found

    def words_of(self, query: str) -> np.ndarray:
        """Numbers of the words of a query that titles have, too [QUERY_WORDS], 0 where there are fewer."""
        numbers = [self._number_of_token[word] for word in words(query) if word in self._number_of_token]
        return np.pad(np.asarray(numbers[:QUERY_WORDS], np.int64), (0, QUERY_WORDS - min(len(numbers), QUERY_WORDS)))

    def query_words(self, queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Words of queries, a row each different one [Q, A], and each query's row [N]; row 0 is of no word.

        A is 0 if no query has a word of a title.
        """
        found = np.asarray([self.words_of(query) for query in queries]).reshape(-1, QUERY_WORDS)
        if not found.any():
            return np.zeros((1, 0), np.int64), np.zeros(len(queries), np.int64)
        rows, row_of = np.unique(
            np.concatenate([np.zeros((1, QUERY_WORDS), np.int64), found]), axis=0, return_inverse=True
        )
        return rows, row_of.reshape(-1)[1:]

    @cached_property
    def _number_of_token(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.content_names) if token}

    def _tokens(self) -> Iterator[list[str]]:
        attributes = self.attributes or ((),) * len(self.item_ids)
        columns = zip(self.titles, self.category_paths, self.brands, attributes, strict=True)
        return (content_tokens(*column) for column in columns)

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        path.write_text(json.dumps(columns, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads what `save` wrote.

        Raises:
            InvariantError: the columns are not of one length.
        """
        columns = json.loads(path.read_text(encoding="utf-8"))
        attributes = tuple(tuple(names) for names in columns.pop("attributes", ()))
        if len({len(column) for column in columns.values()}) != 1 or len(attributes) not in (0, len(columns["counts"])):
            raise InvariantError(f"{path}: the columns of the vocabulary are not of one length")
        return cls(**{name: tuple(column) for name, column in columns.items()}, attributes=attributes)


def content_tokens(title: str, category_path: str, brand: str, attributes: Sequence[str] = ()) -> list[str]:
    """Tokens of an item's content, each once; the kind of a token is part of it, except that of words."""
    upper = _PATH_SEPARATOR.join(category_path.split(_PATH_SEPARATOR)[:2])
    kinds = [("category", upper), ("category", category_path), ("brand", brand)]
    tokens = [f"{kind}={value}" for kind, value in kinds if value] + [f"attribute={name}" for name in attributes]
    return list(dict.fromkeys([*tokens, *words(title)]))
