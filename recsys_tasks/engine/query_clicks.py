"""Queries and the items that people chose after them, as the bundle stores them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import FIRST_ITEM


class LearnedQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A query with the items that people chose after it.

    Attributes:
        query: as most people wrote it.
        people: number of people who searched for it.
        item_ids: the items, best first; scores: their association with the query, from 0 to 1.
        categories: category paths of the choices, with the share of the choices in each.
    """

    query: str
    people: int
    item_ids: list[str]
    scores: list[float]
    categories: dict[str, float]


def save_learned_queries(queries: Sequence[LearnedQuery], path: Path) -> None:
    """Writes queries as JSON."""
    path.write_bytes(msgspec.json.encode(queries))


def load_learned_queries(path: Path) -> list[LearnedQuery]:
    """Reads a file written by `save_learned_queries`.

    Raises:
        msgspec.ValidationError: the content is not valid.
    """
    return msgspec.json.decode(path.read_bytes(), type=list[LearnedQuery])


class QueryAssociations:
    """Associations of the items of a catalog with learned queries.

    Args:
        queries: the queries.
        key_of: maps spellings of one query to one key.
    """

    def __init__(self, queries: Iterable[LearnedQuery], key_of: Callable[[str], str]) -> None:
        self._key_of = key_of
        self._queries: dict[str, LearnedQuery] = {}
        for query in sorted(queries, key=lambda query: query.people):
            self._queries[key_of(query.query)] = query  # of several spellings the most frequent

    def find(self, text: str, vocabulary: Vocabulary, category_codes: np.ndarray, paths: Sequence[str]) -> np.ndarray:
        """Returns the association of each item with a query, from 0 to 1 [V]; empty if it was not learned.

        Items that nobody chose are associated by their category, with half of its share at most.

        Args:
            text: the query.
            vocabulary: of the catalog.
            category_codes: index into `paths` of each item number [V]; -1 for none.
            paths: category paths.
        """
        query = self._queries.get(self._key_of(text))
        if query is None:
            return np.zeros(0)
        share_of_code = np.append([query.categories.get(path, 0.0) for path in paths], 0.0)  # the last one for code -1
        association: np.ndarray = _CATEGORY_SHARE * share_of_code[category_codes]
        numbers = vocabulary.numbers(query.item_ids)
        known = numbers >= FIRST_ITEM
        np.maximum.at(association, numbers[known], np.asarray(query.scores)[known])
        return association


_CATEGORY_SHARE = 0.5
