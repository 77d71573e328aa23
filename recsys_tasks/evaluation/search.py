"""Evaluation of search at an endpoint: judged queries from a file, or from what people chose after their searches."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from recsys_tasks.errors import InputError
from recsys_tasks.evaluation.metrics import graded_ndcg
from recsys_tasks.names import CATEGORY_SEPARATOR
from recsys_tasks.wire.messages import SearchRequest, SearchResponse

RESULTS: Final = 100  # that are asked for
_NDCG_AT, _PRECISIONS_AT = 10, (5, 10)
_MAX_RATING = 10
_REQUIRED, _JUDGEMENTS = "query", ("item_id", "category")
_COLUMNS = (_REQUIRED, *_JUDGEMENTS, "rating", "class", "searches")


@dataclass
class JudgedQuery:
    """A query with the ratings of items.

    Attributes:
        query: search text.
        ratings: rating of each judged item; 0 is irrelevant.
        categories: rating of all items of a category path and below it.
        labels: classes of the query beside those that the evaluation finds.
        searches: how often people searched for it; 0 if unknown.
    """

    query: str
    ratings: dict[str, int] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)
    searches: int = 0


def read_judged_queries(path: Path) -> list[JudgedQuery]:
    """Reads a CSV file with a row per judgement.

    Its columns are `query`; `item_id` or `category` (a path, for all items at or below it); `rating` from 0 to 10
    (default 1); and optionally `class` and `searches`, the number of searches.

    Raises:
        InputError: the file cannot be read, or a row is not valid; names the line.
    """
    queries: dict[str, JudgedQuery] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if _REQUIRED not in columns or not set(_JUDGEMENTS) & set(columns) or not set(columns) <= set(_COLUMNS):
                raise InputError(
                    f"{path} has the columns {', '.join(columns)}; expected query, item_id or category, and optionally"
                    " rating, class and searches"
                )
            for row in reader:
                _add_judgement(queries, row, f"{path}, line {reader.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not queries:
        raise InputError(f"{path} has no judgement")
    return list(queries.values())


def _add_judgement(queries: dict[str, JudgedQuery], row: Mapping[str, Any], place: str) -> None:
    text, item_id, category = (row.get(name) or "" for name in (_REQUIRED, *_JUDGEMENTS))
    if not text.strip() or bool(item_id) == bool(category):
        raise InputError(f"{place}: a judgement has a query and either an item_id or a category")
    try:
        rating, searches = int(row.get("rating") or 1), int(row.get("searches") or 0)
    except ValueError as error:
        raise InputError(f"{place}: rating and searches are whole numbers ({error})") from error
    if not 0 <= rating <= _MAX_RATING:
        raise InputError(f"{place}: the rating {rating} is not between 0 and {_MAX_RATING}")
    query = queries.setdefault(text, JudgedQuery(text))
    target = query.ratings if item_id else query.categories
    target[item_id or category] = rating
    query.searches = max(query.searches, searches)
    if row.get("class"):
        query.labels.add(str(row["class"]))


def evaluate_search(
    queries: Sequence[JudgedQuery], search: Callable[[SearchRequest], SearchResponse]
) -> dict[str, dict[str, float]]:
    """Returns the metrics of all queries and of each class of queries, by class.

    A query without a relevant item counts for the zero-hit rate only. Classes: `all`; `head` and `tail`, each with half
    of the searches, where their numbers are known; `corrected` (the endpoint corrected a word); `script …`; and the
    classes of the file.

    Args:
        queries: the judged queries.
        search: answers one request; recommendations instead of results count as nothing found.
    """
    head = _head_queries(queries)
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for query in queries:
        request = SearchRequest(query=query.query, k=RESULTS, record=False, fields=["category"])
        response = search(request)
        metrics = _query_metrics(query, response)
        for label in ("all", *sorted(_classes(query, response, head))):
            rows[label].append(metrics)
    return {label: _means(found) for label, found in rows.items()}


def _query_metrics(query: JudgedQuery, response: SearchResponse) -> dict[str, float]:
    """Metrics of one query; nDCG with gain 2^rating − 1 over all judged items (Burges et al. 2005)."""
    items = [] if response.fallback else response.items
    data = [item.data if isinstance(item.data, dict) else {} for item in items]
    categories = [str(fields.get("category") or "") for fields in data]
    ids = [item.item_id for item in items]
    ratings = np.asarray([_rating(query, *pair) for pair in zip(ids, categories, strict=True)], float)
    metrics = {"zero_hit_rate": float(not len(items))}
    relevant = [rating for rating in query.ratings.values() if rating > 0]
    if not relevant and not any(query.categories.values()):
        return metrics
    best = relevant
    if query.categories:  # as many items as the list has places
        best = [max(query.categories.values())] * RESULTS
    is_judged = [bool(query.categories) or item_id in query.ratings for item_id in ids]
    hits = np.flatnonzero(ratings > 0)
    metrics |= {
        f"ndcg_{_NDCG_AT}": _ndcg(ratings, best),
        f"ndcg_{_NDCG_AT}_judged": _ndcg(ratings[is_judged], best),
        "mrr": 1 / (1 + float(hits[0])) if len(hits) else 0.0,
        **{f"precision_{k}": float((ratings[:k] > 0).sum() / k) for k in _PRECISIONS_AT},
    }
    if relevant:
        metrics[f"recall_{RESULTS}"] = len(hits) / len(relevant)
    return metrics


def _rating(query: JudgedQuery, item_id: str, category: str) -> int:
    if item_id in query.ratings:
        return query.ratings[item_id]
    levels = category + CATEGORY_SEPARATOR
    return max(
        (rating for path, rating in query.categories.items() if levels.startswith(path + CATEGORY_SEPARATOR)), default=0
    )


def _ndcg(ratings: np.ndarray, best: Sequence[int]) -> float:
    gains, available = (2.0 ** np.asarray(values, float) - 1 for values in (ratings, best))
    return graded_ndcg(gains, available, _NDCG_AT)


def _head_queries(queries: Sequence[JudgedQuery]) -> set[str]:
    """The most frequent queries that together have half of the searches."""
    total, counted, head = sum(query.searches for query in queries), 0, set()
    for query in sorted(queries, key=lambda query: -query.searches):
        if 2 * counted >= total:
            break
        head.add(query.query)
        counted += query.searches
    return head


def _classes(query: JudgedQuery, response: SearchResponse, head: set[str]) -> Iterable[str]:
    from recsys_tasks.search.analysis import script_of

    yield from query.labels
    if query.searches:
        yield "head" if query.query in head else "tail"
    if any(relaxation.kind == "spelling" for relaxation in response.relaxations):
        yield "corrected"
    script = script_of("".join(filter(str.isalpha, query.query)))
    if script:
        yield f"script {script.lower()}"


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    return {"queries": len(rows), **means}
