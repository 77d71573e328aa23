"""The question put to every model: given a user's past and a session but for its last item, which one is it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from recsys_tasks.evaluation.metrics import MISSED, rank_of
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import Timeline, query_inputs
from recsys_tasks.model.incremental import score_items
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import Events, Query
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, SEARCH

TRAINING, VALIDATION, TEST = 0, 1, 2
HISTORY = 512
_BATCH_EVENTS = 32_768
_BATCH = 256
LISTED = 20


@dataclass(frozen=True)
class Questions:
    """Sessions: where each begins and where its target is, an event after the beginning [B]."""

    first: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        """How many there are."""
        return len(self.first)

    def __getitem__(self, part: np.ndarray | slice) -> Questions:
        """Some of them."""
        return Questions(self.first[part], self.target[part])


@dataclass(frozen=True)
class Answers:
    """Rank [B] of each target, ties against it, `MISSED` where it is not in the vocabulary; items listed [B, 20]."""

    ranks: np.ndarray
    lists: np.ndarray


Scorer = Callable[[Questions], np.ndarray]
"""Scores [B, V] of all items for questions [B]; higher is better."""


def questions(encoded: EncodedSnapshot, part: int, limit: int | None = None) -> Questions:
    """The sessions of a part, asked for their last new wish, which is no search, if another event comes before it.

    With a `limit`, a fixed random sample of at most so many.
    """
    timeline = encoded.timeline
    first = timeline.session_start[:-1]
    wished = (timeline.kind != EVENT_TYPE_CODES[SEARCH]) & (timeline.weight > 0)
    target = np.maximum.reduceat(np.where(wished, np.arange(len(timeline)), -1), first) if len(first) else first
    chosen = np.flatnonzero((encoded.split == part) & (target > first))
    if limit is not None and limit < len(chosen):
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:limit])
    return Questions(first[chosen], target[chosen])


def moments(encoded: EncodedSnapshot, part: int) -> Questions:
    """The sessions of a part, asked for one of their events after the first, drawn at random.

    Nobody knows which event of a running session is its last, so what is said of a session as a whole is judged there.
    """
    timeline = encoded.timeline
    first, length = timeline.session_start[:-1], np.diff(timeline.session_start)
    chosen = np.flatnonzero((encoded.split == part) & (length > 1))
    drawn = np.random.default_rng(0).integers(1, length[chosen])
    return Questions(first[chosen], first[chosen] + drawn)


def model_inputs(network: Recommender, timeline: Timeline, asked: Questions) -> tuple[Events, Query]:
    """What the network reads of questions."""
    device = network.items.bias.device
    events, query = query_inputs(timeline, asked.first, asked.target, HISTORY)
    return (
        Events(**{name: torch.from_numpy(value).to(device) for name, value in events.items()}),
        Query(**{name: torch.from_numpy(value).to(device) for name, value in query.items()}),
    )


def model_scorer(network: Recommender, timeline: Timeline) -> Scorer:
    """The network as a scorer: probabilities of the next item."""

    @torch.inference_mode()
    def scores(asked: Questions) -> np.ndarray:
        network.eval()
        found: np.ndarray = score_items(network, *model_inputs(network, timeline, asked)).softmax(-1).cpu().numpy()
        return found

    return scores


def answer(scorer: Scorer, timeline: Timeline, asked: Questions, skip_session: bool = False) -> Answers:
    """What a scorer answers; `skip_session` takes what is in the session already out of the competition."""
    ranks, lists = np.full(len(asked), MISSED), np.zeros((len(asked), LISTED), np.int64)
    for part in batches(timeline, asked):
        found = rank(scorer(asked[part]), timeline, asked[part], skip_session)
        ranks[part], lists[part] = found.ranks, found.lists
    return Answers(ranks, lists)


def rank(scores: np.ndarray, timeline: Timeline, asked: Questions, skip_session: bool) -> Answers:
    """What scores [B, V] answer to questions [B]; the scores are used up."""
    rows, target = np.arange(len(asked)), timeline.item[asked.target]
    scores[:, :FIRST_ITEM] = -np.inf
    own = scores[rows, target]
    if skip_session:
        length = asked.target - asked.first
        row = np.repeat(rows, length)
        seen = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length) + asked.first[row]
        scores[row, timeline.item[seen]] = -np.inf
    lists = _best(scores)
    scores[rows, target] = own
    return Answers(np.where(target >= FIRST_ITEM, rank_of(scores, target), MISSED), lists)


def _best(scores: np.ndarray) -> np.ndarray:
    """The items [B, LISTED] with the highest scores, best first; 0 where there are fewer."""
    count = min(LISTED, scores.shape[1])
    best, items = torch.topk(torch.from_numpy(scores), count)
    listed = np.where(np.isfinite(best.numpy()), items.numpy(), 0)
    return np.pad(listed, ((0, 0), (0, LISTED - count)))


def model_ranks(network: Recommender, timeline: Timeline, asked: Questions) -> np.ndarray:
    """Rank [B] of each target by the network, which itself leaves out what cannot come."""
    return answer(model_scorer(network, timeline), timeline, asked).ranks


def batches(timeline: Timeline, asked: Questions) -> Iterator[np.ndarray]:
    """Questions in batches of similar length of history, then of session."""
    history = np.minimum(asked.first - timeline.user_start[timeline.user[asked.first]], HISTORY)
    order, at = np.lexsort((asked.target - asked.first, history))[::-1], 0
    while at < len(order):
        size = max(1, min(_BATCH, _BATCH_EVENTS // max(1, int(history[order[at]]))))
        yield order[at : at + size]
        at += size
