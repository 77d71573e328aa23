"""The items a model knows, by the numbers it knows them by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from recsys_tasks.errors import InvariantError
from recsys_tasks.names import FIRST_ITEM, UNKNOWN_ITEM

_PATH_SEPARATOR = " > "


@dataclass(frozen=True)
class Vocabulary:
    """Items in the order of their numbers (the first one is number `FIRST_ITEM`), most frequent first.

    Attributes:
        item_ids, titles, category_paths, brands: one entry an item; an attribute that is not known is empty.
        counts: how often each was acted on in training.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    category_paths: tuple[str, ...]
    brands: tuple[str, ...]
    counts: tuple[int, ...]

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

    def all_counts(self) -> np.ndarray:
        """Training counts [V] by number; zero for padding and unknown."""
        return np.concatenate([np.zeros(FIRST_ITEM, np.int64), np.asarray(self.counts, np.int64)])

    def categories(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """Number of each item's category at two depths [V, 2] (0: none), and how many numbers each depth has."""
        columns = []
        for names, of_item in zip(self.category_names(), self._paths(), strict=True):
            number = {name: place for place, name in enumerate(names)}
            columns.append([0] * FIRST_ITEM + [number[name] for name in of_item])
        return np.asarray(columns, np.int64).T, tuple(len(names) for names in self.category_names())

    def category_names(self) -> tuple[tuple[str, ...], ...]:
        """The categories of each depth in the order of their numbers; number 0 has no name."""
        return tuple(("", *sorted(set(of_item) - {""})) for of_item in self._paths())

    def _paths(self) -> tuple[tuple[str, ...], ...]:
        upper = tuple(_PATH_SEPARATOR.join(path.split(_PATH_SEPARATOR)[:2]) for path in self.category_paths)
        return upper, self.category_paths

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
        if len({len(column) for column in columns.values()}) != 1:
            raise InvariantError(f"{path}: the columns of the vocabulary are not of one length")
        return cls(**{name: tuple(column) for name, column in columns.items()})
