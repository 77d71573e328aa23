"""Second stage of ranking: gradient-boosted trees rescore the model's best candidates.

The first stage scores the whole catalog by one dot product, copies and neighbors. The trees read what is costly or
awkward for it: how often and when the user took the item and its category, what the session holds of them, and the
first stage's own score. They are fitted to held-out sessions after the network's training
(`training.second_stage`), exported as an ONNX graph, and may be absent.

Letters in shapes: C candidates, F features, N events, V items of the vocabulary.
"""

from __future__ import annotations

import copy
from typing import Final, NamedTuple

import numpy as np

from recsys_tasks.engine.bundle import SECOND_STAGE, Bundle
from recsys_tasks.engine.catalog import CodedColumn
from recsys_tasks.engine.graphs import Graph
from recsys_tasks.engine.inputs import History
from recsys_tasks.engine.scoring import PredictionScores, ScoredItems, places_of
from recsys_tasks.errors import BundleCorrupt
from recsys_tasks.features.item_neighbors import latest_items
from recsys_tasks.names import CATEGORY_SEPARATOR, EVENT_TYPE_CODES, FIRST_ITEM, PURCHASE

NUM_CANDIDATES: Final = 100
NUM_FETCHED: Final = 2 * NUM_CANDIDATES  # the scan selects by rounded scores; and enough for a list of 100
FEATURES: Final = (
    "log_score",
    "rank",
    "log_score_below_best",
    "actions",
    "recent_actions",
    "purchases",
    "days_since_action",
    "days_between_actions",
    "intervals_since_action",
    "category_actions",
    "department_actions",
    "days_since_category",
    "share_of_category",
    "log_training_events",
    "session_length",
    "is_in_session",
    "category_in_session",
    "department_in_session",
    "is_category_of_latest",
    "is_department_of_latest",
    "neighbor_weight",
    "max_neighbor_weight",
    "latest_neighbor_weight",
    "history_length",
    "days_since_history",
)
_SECONDS_PER_DAY, _RECENT_DAYS = 86_400.0, 60.0
_NEVER = 999.0  # days
_NEIGHBOR_TOKENS = 20
_DEPARTMENT_LEVELS = 2
_NO_ITEMS = np.zeros(0, np.int64)
_TINY = 1e-30


class Situation(NamedTuple):
    """What a list is made for: the events before the session, the session's tokens [T] (item numbers and others), and
    the time of the latest action in seconds since 1970."""

    history: History
    session: np.ndarray
    seconds: float

    @property
    def has_item(self) -> bool:
        """Whether the session has a known item."""
        return bool((self.session >= FIRST_ITEM).any())


class Candidates(NamedTuple):
    """The first stage's best items, best first: numbers [C], scores [C] and features [C, F]."""

    numbers: np.ndarray
    scores: np.ndarray
    features: np.ndarray


class CandidateFeatures:
    """Computes the features of candidates; the same code for fitting, evaluation and serving.

    Args:
        bundle: categories, training counts and item neighbors.
    """

    def __init__(self, bundle: Bundle) -> None:
        categories = bundle.catalog.categories
        departments = CodedColumn([_department(path) for path in categories.values]).codes[FIRST_ITEM:]
        self._category = categories.codes + 1  # 0 for none
        self._department = np.append(0, departments + 1)[self._category]
        self._log_count = np.log1p(bundle.vocabulary.training_counts())
        self._neighbors = bundle.neighbors.of_items

    def select(self, scored: ScoredItems, situation: Situation) -> Candidates:
        """Returns the best items of the first stage with their features; ties go to lower numbers."""
        order = np.lexsort((scored.numbers, -scored.scores))
        order = order[scored.scores[order] > 0]
        first = np.sort(np.unique(scored.numbers[order], return_index=True)[1])[:NUM_CANDIDATES]
        numbers, scores = scored.numbers[order][first], scored.scores[order][first].astype(np.float64)
        return Candidates(numbers, scores, self._compute(numbers, scores, situation))

    def _compute(self, numbers: np.ndarray, scores: np.ndarray, situation: Situation) -> np.ndarray:
        size = len(numbers)
        if not size:
            return np.zeros((0, len(FEATURES)), np.float32)
        log_score = np.log(scores + _TINY)
        columns = [
            log_score,
            np.arange(size),
            log_score - log_score[0],
            *self._of_history(numbers, situation),
            _at(self._log_count, numbers),
            *self._of_session(numbers, situation.session[situation.session >= FIRST_ITEM]),
            *self._of_neighbors(numbers, situation.session),
            *_of_user(size, situation),
        ]
        return np.stack(columns, axis=1).astype(np.float32)

    def _of_history(self, numbers: np.ndarray, situation: Situation) -> list[np.ndarray]:
        history, now, size = situation.history, situation.seconds, len(numbers)
        place = places_of(numbers, history.item)
        own = place >= 0
        place, seconds = place[own], history.seconds[own]
        count = np.bincount(place, minlength=size)
        recent = np.bincount(place[seconds >= now - _RECENT_DAYS * _SECONDS_PER_DAY], minlength=size)
        purchases = np.bincount(place[history.kind[own] == EVENT_TYPE_CODES[PURCHASE]], minlength=size)
        first, last = np.full((2, size), np.nan)
        last[place] = seconds  # events ascend: the latest one stays
        first[place[::-1]] = seconds[::-1]
        since = np.nan_to_num((now - last) / _SECONDS_PER_DAY, nan=_NEVER)
        interval = np.where(
            count > 1, np.nan_to_num(last - first) / _SECONDS_PER_DAY / np.maximum(count - 1, 1), _NEVER
        )
        category, of_history = _at(self._category, numbers), _at(self._category, history.item)
        in_category = _count(category, of_history)
        in_department = _count(_at(self._department, numbers), _at(self._department, history.item))
        latest = np.full(max(int(category.max()), int(of_history.max(initial=0))) + 1, np.nan)
        latest[of_history] = history.seconds
        latest[0] = np.nan  # items without a category
        since_category = np.nan_to_num((now - latest[category]) / _SECONDS_PER_DAY, nan=_NEVER)
        due = np.where(interval < _NEVER, since / np.maximum(interval, 0.5), -1.0)
        share = count / np.maximum(in_category, 1)
        return [count, recent, purchases, since, interval, due, in_category, in_department, since_category, share]

    def _of_session(self, numbers: np.ndarray, session: np.ndarray) -> list[np.ndarray]:
        found = [np.full(len(numbers), len(session)), np.isin(numbers, session)]
        of_latest = []
        for codes in (self._category, self._department):
            own, others = _at(codes, numbers), _at(codes, session)
            found.append(_count(own, others))
            of_latest.append((own == others[-1]) & (own > 0) if len(session) else np.zeros(len(numbers)))
        return [*found, *of_latest]

    def _of_neighbors(self, numbers: np.ndarray, session: np.ndarray) -> list[np.ndarray]:
        latest = latest_items(session, _NEIGHBOR_TOKENS)  # newest first
        found = self._neighbors.candidates(latest)
        place = places_of(numbers, found.item)
        is_candidate = place >= 0
        place, token = place[is_candidate], found.token[is_candidate]
        weight = np.exp(found.log_weight[is_candidate].astype(np.float64))
        total = np.bincount(place, weight, len(numbers))
        largest, of_latest = np.zeros((2, len(numbers)))
        np.maximum.at(largest, place, weight)
        of_latest[place[token == 0]] = weight[token == 0]
        return [total, largest, of_latest]


class SecondStage:
    """The trees of a bundle, and the features that they read.

    Raises:
        BundleCorrupt: the graph cannot be loaded, or reads other features.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._graph, self._features = Graph(bundle.folder / SECOND_STAGE), CandidateFeatures(bundle)
        width = self._graph.inputs["features"][1] if "features" in self._graph.inputs else None
        if width != len(FEATURES):
            raise BundleCorrupt(
                f"{SECOND_STAGE} reads {width} features; this version of the package has {len(FEATURES)}"
            )

    @classmethod
    def of(cls, bundle: Bundle) -> SecondStage | None:
        """Returns the second stage of a bundle; None if it has none."""
        path = bundle.folder / SECOND_STAGE
        return cls(bundle) if path.exists() and path.stat().st_size else None

    def with_bundle(self, bundle: Bundle) -> SecondStage:
        """Returns the same trees with the items of an updated bundle."""
        changed = copy.copy(self)
        changed._features = CandidateFeatures(bundle)
        return changed

    def rescore(
        self, scores: PredictionScores, situation: Situation, offset: np.ndarray | None
    ) -> PredictionScores | RescoredItems:
        """Returns scores in which the best candidates have their scores in the order of the trees.

        The values stay those of the first stage, so that discounts, rules and trending items weigh as without trees.
        Before a session's first item, the trees do not apply: they are fitted to later moments.

        Args:
            scores: of the first stage.
            situation: what the list is made for.
            offset: of items that may not be shown, see `Scores.top_k`.
        """
        if not situation.has_item:
            return scores
        fetched = scores.top_k(NUM_FETCHED, offset)
        candidates = self._features.select(fetched, situation)
        if not len(candidates.numbers):
            return scores
        logits = self._graph({"features": candidates.features})["logits"][:, 0]
        rescored = np.empty(len(logits))
        rescored[np.argsort(-logits, kind="stable")] = candidates.scores  # in descending order
        return RescoredItems(scores, fetched, offset, candidates.numbers, rescored)


class RescoredItems:
    """Scores of the first stage, except for some items.

    Args:
        scores: of the first stage.
        fetched: its `NUM_FETCHED` best items with an offset.
        offset: that one.
        numbers, rescored: the other scores of some of these items, each [C].
    """

    def __init__(
        self,
        scores: PredictionScores,
        fetched: ScoredItems,
        offset: np.ndarray | None,
        numbers: np.ndarray,
        rescored: np.ndarray,
    ) -> None:
        self._scores, self._fetched, self._offset = scores, fetched, offset
        self._numbers, self._rescored = numbers, rescored

    def top_k(self, k: int, offset: np.ndarray | None = None, include: np.ndarray = _NO_ITEMS) -> ScoredItems:
        """See `engine.scoring.Scores`."""
        wanted = k + len(self._numbers)  # enough, should all rescored items fall behind
        if offset is self._offset and not len(include) and wanted <= NUM_FETCHED:
            return self._replace(self._fetched)
        return self._replace(self._scores.top_k(wanted, offset, np.concatenate([include, self._numbers])))

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """See `engine.scoring.PredictionScores`."""
        return self._replace(ScoredItems(numbers, self._scores.of(numbers))).scores

    def _replace(self, scored: ScoredItems) -> ScoredItems:
        place = places_of(self._numbers, scored.numbers)
        is_rescored = (place >= 0) & (scored.scores > 0)
        scores = scored.scores.astype(np.float64)
        scores[is_rescored] = self._rescored[place[is_rescored]]
        return ScoredItems(scored.numbers, scores)


def _department(path: str) -> str:
    return CATEGORY_SEPARATOR.join(path.split(CATEGORY_SEPARATOR)[:_DEPARTMENT_LEVELS])


def _at(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Values of item numbers [...]; 0 for items added since."""
    return np.where(numbers < len(values), values[np.minimum(numbers, len(values) - 1)], 0)


def _count(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How often each code [C] occurs among others [N]; 0 for code 0."""
    counts = np.bincount(others, minlength=int(codes.max(initial=0)) + 1)
    return np.where(codes > 0, counts[codes], 0)


def _of_user(size: int, situation: Situation) -> list[np.ndarray]:
    seconds = situation.history.seconds
    since = (situation.seconds - seconds[-1]) / _SECONDS_PER_DAY if len(seconds) else _NEVER
    return [np.full(size, len(seconds)), np.full(size, since)]
