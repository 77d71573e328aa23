"""The question put to every model: given a user's past and a session but for its last item, which one is it?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from recsys_tasks.evaluation.metrics import MISSED, rank_of
from recsys_tasks.features.encoding import EncodedSnapshot
from recsys_tasks.features.sequences import query_inputs
from recsys_tasks.model.network import Events, Query, Recommender
from recsys_tasks.names import FIRST_ITEM

VALIDATION, TEST = 1, 2
HISTORY = 512
_BATCH_EVENTS = 32_768


@dataclass(frozen=True)
class Questions:
    """Sessions of one part: where each begins and where its target, the last event, is [B]."""

    first: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        """How many there are."""
        return len(self.first)


def questions(encoded: EncodedSnapshot, part: int, limit: int | None = None) -> Questions:
    """The sessions of a part with two events or more; a fixed random sample of at most `limit`."""
    first, stop = encoded.timeline.session_start[:-1], encoded.timeline.session_start[1:]
    chosen = np.flatnonzero((encoded.split == part) & (stop - first >= 2))
    if limit is not None and limit < len(chosen):
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:limit])
    return Questions(first[chosen], stop[chosen] - 1)


@torch.inference_mode()
def model_ranks(network: Recommender, encoded: EncodedSnapshot, asked: Questions) -> np.ndarray:
    """Rank [B] of each target by the network; `MISSED` where the target is not in its vocabulary."""
    network.eval()
    timeline, device = encoded.timeline, network.items.bias.device
    ranks = np.full(len(asked), MISSED)
    known = np.flatnonzero(timeline.item[asked.target] >= FIRST_ITEM)
    length = np.minimum(asked.first - timeline.user_start[timeline.user[asked.first]], HISTORY)
    order, at = known[np.argsort(length[known], kind="stable")[::-1]], 0
    while at < len(order):
        size = max(1, min(256, _BATCH_EVENTS // max(1, int(length[order[at]]))))
        part = order[at : at + size]
        events, query = query_inputs(timeline, asked.first[part], asked.target[part], HISTORY)
        given = Events(**{name: torch.from_numpy(value).to(device) for name, value in events.items()})
        running = Query(**{name: torch.from_numpy(value).to(device) for name, value in query.items()})
        scores = network.decode_session(*network.encode_history(given), given.days, running)
        ranks[part] = rank_of(scores.cpu().numpy(), timeline.item[asked.target[part]])
        at += size
    return ranks
