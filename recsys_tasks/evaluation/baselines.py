"""Baseline scorers: popularity, personal frequency, kNN and a blend of both, fitted to the training events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import sparse

from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import PredictionTasks, Scorer
from recsys_tasks.evaluation.sparse_scores import blend_rows, normalize_rows, sparse_target_ranks
from recsys_tasks.features.sequences import SECONDS_PER_DAY, Timeline, expand_ranges
from recsys_tasks.features.session_neighbors import SessionNeighbors
from recsys_tasks.model.neighbors import decayed_item_weights, session_item_matrix
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.names import (
    DECAYED_PERSONAL_FREQUENCY,
    FIRST_ITEM,
    ITEM_KNN,
    PERSONAL_FREQUENCY,
    PERSONAL_ITEM_BLEND,
    POPULARITY,
    RECENT_POPULARITY,
    UNCALIBRATED,
    VMIS_KNN,
)
from recsys_tasks.plugins import BASELINE_GROUP, check_plugin_names, load_plugin, plugin_names
from recsys_tasks.training.recipe import session_events, sessions_repeat, training_events

_RESERVED_NAMES = ("model", "champion", UNCALIBRATED)  # rows of the evaluation table
_RECENT_FRACTION = 0.05
_MAX_SESSION_ITEMS = 10
_ITEM_DECAY = 0.8
_HALF_LIVES_DAYS = (np.inf, 365.0, 180.0, 90.0, 60.0, 30.0, 14.0, 7.0)
_SHRINKAGES = (0.0, 10.0, 30.0, 100.0, 300.0)
_ITEM_WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
_POPULARITY_WEIGHT = 1e-3  # orders items without any other score, and breaks ties
_TUNING_METRIC = "mrr_20"
_MAX_TUNING_TASKS = 2_000
_TUNING_BATCH = 256


class PairCounts(NamedTuple):
    """Number of sessions that contain two different items [V, V], and each item [V]."""

    pairs: sparse.csr_matrix
    frequency: np.ndarray

    def cosines(self, shrinkage: float) -> sparse.csr_matrix:
        """Returns shrunk cosines [V, V]: sessions of both items / (sqrt(sessions of one * of the other) + shrinkage).

        Without shrinkage, two items that occur once and together are as similar as possible. The shrink term is in
        the form of Ferrari Dacrema et al. 2019.
        """
        row_frequency = np.repeat(self.frequency, np.diff(self.pairs.indptr))
        norm = np.sqrt(row_frequency * self.frequency[self.pairs.indices]) + shrinkage
        data = (self.pairs.data / norm).astype(np.float32)
        return sparse.csr_matrix((data, self.pairs.indices, self.pairs.indptr), self.pairs.shape)


@dataclass(frozen=True)
class BaselineData:
    """What a baseline is fitted to.

    Attributes:
        data: training events. Hyperparameters are chosen with those up to `stops`; then the baseline is fitted to those
            up to `final_stops`, as a network is in its decay phase.
        validation: tasks that hyperparameters are chosen on.
    """

    data: TrainingData
    validation: PredictionTasks

    @property
    def final(self) -> TrainingData:
        """The training events with those of the validation part."""
        return self.data._replace(stops=self.data.final_stops)

    @cached_property
    def tuning_tasks(self) -> PredictionTasks:
        """A fixed random sample of the validation tasks."""
        chosen = np.random.default_rng(0).permutation(len(self.validation))[:_MAX_TUNING_TASKS]
        return self.validation[np.sort(chosen)]

    @cached_property
    def popularity(self) -> np.ndarray:
        """Share of each item in the training events [V]."""
        counts = _count_items(self.final)
        share: np.ndarray = (counts / max(counts.sum(), 1)).astype(np.float32)
        return share

    @cached_property
    def shrinkage(self) -> float:
        """The shrinkage of item-kNN that is best on the validation tasks."""
        return choose_shrinkage(self.data, self.tuning_tasks, self._tuning_pairs)

    @cached_property
    def similarities(self) -> sparse.csr_matrix:
        """Similarities [V, V] of items by session."""
        return _count_pairs(self.final).cosines(self.shrinkage)

    @cached_property
    def half_life_days(self) -> float:
        """The half-life of personal frequency that is best on the validation tasks."""
        return choose_half_life(self.data, self.tuning_tasks)

    @cached_property
    def item_weight(self) -> float:
        """The weight of item-kNN in its blend with personal frequency that is best on the validation tasks."""
        similarities = self._tuning_pairs.cosines(self.shrinkage)
        return choose_item_weight(self.data, self.tuning_tasks, self.half_life_days, similarities)

    @cached_property
    def _tuning_pairs(self) -> PairCounts:
        return _count_pairs(self.data)


BaselineFitter = Callable[[BaselineData], Scorer]


def fit_popularity(data: BaselineData) -> Scorer:
    """Returns a scorer by share of the training events."""
    return lambda tasks: np.tile(data.popularity, (len(tasks), 1))


def fit_recent_popularity(data: BaselineData) -> Scorer:
    """Returns a scorer by count in the latest 5 % of the training events; overall popularity breaks ties."""
    timeline, events = data.data.timeline, training_events(data.final)
    latest = events[np.argsort(timeline.seconds[events], kind="stable")][-max(1, int(_RECENT_FRACTION * len(events))) :]
    counts = np.bincount(timeline.item[latest], minlength=len(data.popularity))
    share = (counts + data.popularity).astype(np.float32)
    return lambda tasks: np.tile(share, (len(tasks), 1))


def fit_personal_frequency(data: BaselineData) -> Scorer:
    """Returns a scorer by the user's number of actions on an item before the session; popularity breaks ties."""
    timeline = data.data.timeline
    return lambda tasks: _with_popularity(personal_frequency(timeline, tasks, np.inf, len(data.popularity)), data)


def fit_decayed_personal_frequency(data: BaselineData) -> Scorer:
    """Returns a scorer by personal frequency with an exponential decay by age (Ding and Li 2005).

    The half-life is chosen on the validation tasks. Popularity orders the items that the user never acted on.
    """
    timeline, half_life = data.data.timeline, data.half_life_days
    return lambda tasks: _with_popularity(personal_frequency(timeline, tasks, half_life, len(data.popularity)), data)


def fit_item_knn(data: BaselineData) -> Scorer:
    """Returns an item-kNN scorer: shrunk cosine similarity of items by session (Sarwar et al. 2001).

    The shrinkage is chosen on the validation tasks. Similarities are summed over the session's items with a decay that
    favors recent ones.
    """
    timeline, similarities = data.data.timeline, data.similarities
    return lambda tasks: item_scores(similarities, timeline, tasks).toarray()


def fit_personal_item_blend(data: BaselineData) -> Scorer:
    """Returns the weighted mean of the normalized scores of decayed personal frequency and item-kNN.

    The weight is chosen on the validation tasks. A user without a history has item-kNN alone, a session without known
    items has personal frequency alone, and popularity orders the rest.
    """
    timeline, half_life, similarities = data.data.timeline, data.half_life_days, data.similarities
    weight = data.item_weight

    def scores(tasks: PredictionTasks) -> np.ndarray:
        personal = personal_frequency(timeline, tasks, half_life, len(data.popularity))
        by_item = normalize_rows(item_scores(similarities, timeline, tasks))
        return _with_popularity(blend_rows(normalize_rows(personal), by_item, weight), data)

    return scores


def fit_vmis_knn(data: BaselineData) -> Scorer:
    """Returns a VMIS-kNN scorer (Kersbergen et al. 2022)."""
    timeline, num_items = data.data.timeline, len(data.data.counts)
    neighbors = SessionNeighbors.from_events(*session_events(data.final), num_items)
    last = neighbors.config.max_session_items

    def scores(tasks: PredictionTasks) -> np.ndarray:
        found = np.zeros((len(tasks), num_items), np.float32)
        for row, tokens in enumerate(last_session_items(timeline, tasks, last)):
            candidates = neighbors.candidates(tokens)
            found[row, candidates.items] = candidates.scores
        return found

    return scores


BASELINE_FITTERS: dict[str, BaselineFitter] = {
    POPULARITY: fit_popularity,
    RECENT_POPULARITY: fit_recent_popularity,
    PERSONAL_FREQUENCY: fit_personal_frequency,
    DECAYED_PERSONAL_FREQUENCY: fit_decayed_personal_frequency,
    ITEM_KNN: fit_item_knn,
    PERSONAL_ITEM_BLEND: fit_personal_item_blend,
    VMIS_KNN: fit_vmis_knn,
}


def baseline_fitters() -> dict[str, BaselineFitter]:
    """Returns the baselines by name: the built-in ones, then plugins.

    Raises:
        ConfigurationError: a plugin cannot be imported, or has the name of something else.
    """
    check_plugin_names(BASELINE_GROUP, {*BASELINE_FITTERS, *_RESERVED_NAMES})
    return BASELINE_FITTERS | {name: load_plugin(BASELINE_GROUP, name) for name in plugin_names(BASELINE_GROUP)}


def personal_frequency(
    timeline: Timeline, tasks: PredictionTasks, half_life_days: float, num_items: int
) -> sparse.csr_matrix:
    """Returns the weighted number of the user's actions on each item before the session [B, V].

    An action weighs 1 at the time of the user's latest one, and half as much for each half-life before it.
    """
    begin = timeline.user_start[timeline.user[tasks.first]]
    row, index = expand_ranges(begin, tasks.first - begin)
    latest = timeline.seconds[np.maximum(tasks.first - 1, 0)]
    age_days = np.maximum(latest[row] - timeline.seconds[index], 0) / SECONDS_PER_DAY
    weight = np.exp2(-age_days / half_life_days).astype(np.float32)
    known = timeline.item[index] >= FIRST_ITEM
    entries = (weight[known], (row[known], timeline.item[index][known]))
    return sparse.csr_matrix(entries, (len(tasks), num_items))  # sums entries of the same item


def item_scores(similarities: sparse.csr_matrix, timeline: Timeline, tasks: PredictionTasks) -> sparse.csr_matrix:
    """Returns the summed similarities [B, V] to the session's latest items, with a decay that favors recent ones."""
    tokens = last_session_items(timeline, tasks, _MAX_SESSION_ITEMS)
    return (decayed_item_weights(tokens, _ITEM_DECAY, similarities.shape[0]) @ similarities).tocsr()


def choose_half_life(data: TrainingData, tasks: PredictionTasks) -> float:
    """Returns the half-life of personal frequency, in days, with the highest MRR@20 on tasks.

    An infinite half-life counts all actions equally. Of equally good ones, the longest is chosen.
    """
    exclude, num_items = not sessions_repeat(data), len(data.counts)

    def metric(half_life: float) -> float:
        scores = personal_frequency(data.timeline, tasks, half_life, num_items)
        return ranking_metrics(sparse_target_ranks(scores, data.timeline, tasks, exclude))[_TUNING_METRIC]

    return max(_HALF_LIVES_DAYS, key=metric)


def choose_shrinkage(data: TrainingData, tasks: PredictionTasks, counts: PairCounts) -> float:
    """Returns the shrinkage of item-kNN with the highest MRR@20 on tasks; of equal ones the smallest."""
    timeline, exclude = data.timeline, not sessions_repeat(data)

    def metric(shrinkage: float) -> float:
        similarities, ranks = counts.cosines(shrinkage), np.zeros(len(tasks), np.int64)
        for part in _tuning_batches(tasks):
            scores = item_scores(similarities, timeline, tasks[part])
            ranks[part] = sparse_target_ranks(scores, timeline, tasks[part], exclude)
        return ranking_metrics(ranks)[_TUNING_METRIC]

    return max(_SHRINKAGES, key=metric)


def choose_item_weight(
    data: TrainingData, tasks: PredictionTasks, half_life_days: float, similarities: sparse.csr_matrix
) -> float:
    """Returns the weight of item-kNN in the blend with the highest MRR@20 on tasks; of equal ones the smallest."""
    timeline, exclude = data.timeline, not sessions_repeat(data)
    ranks = {weight: np.zeros(len(tasks), np.int64) for weight in _ITEM_WEIGHTS}
    for part in _tuning_batches(tasks):
        personal = normalize_rows(personal_frequency(timeline, tasks[part], half_life_days, len(data.counts)))
        by_item = normalize_rows(item_scores(similarities, timeline, tasks[part]))
        for weight, found in ranks.items():
            blended = blend_rows(personal, by_item, weight)
            found[part] = sparse_target_ranks(blended, timeline, tasks[part], exclude)
    return max(ranks, key=lambda weight: ranking_metrics(ranks[weight])[_TUNING_METRIC])


def last_session_items(timeline: Timeline, tasks: PredictionTasks, count: int) -> np.ndarray:
    """Returns the last known items of each session before its target [B, count], newest last, padded with 0."""
    index = tasks.target[:, None] - np.arange(count, 0, -1)
    items = timeline.item[np.maximum(index, 0)]
    return np.where((index >= tasks.first[:, None]) & (items >= FIRST_ITEM), items, 0)


def _tuning_batches(tasks: PredictionTasks) -> Iterator[slice]:
    return (slice(begin, begin + _TUNING_BATCH) for begin in range(0, len(tasks), _TUNING_BATCH))


def _count_pairs(data: TrainingData) -> PairCounts:
    session_items = session_item_matrix(*session_events(data), len(data.counts))
    pairs = session_items.T.tocsr() @ session_items
    pairs.data[pairs.indices == np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr))] = 0
    pairs.eliminate_zeros()
    return PairCounts(pairs, np.asarray(session_items.sum(0)).ravel())


def _count_items(data: TrainingData) -> np.ndarray:
    """Returns the number of training events of each item [V]; 0 for padding and the unknown item."""
    counts = np.bincount(data.timeline.item[training_events(data)], minlength=len(data.counts))
    counts[:FIRST_ITEM] = 0
    return counts


def _with_popularity(scores: sparse.csr_matrix, data: BaselineData) -> np.ndarray:
    """Returns normalized scores [B, V] as a dense matrix, with a little popularity."""
    dense: np.ndarray = normalize_rows(scores).toarray()
    dense += _POPULARITY_WEIGHT * data.popularity
    return dense
