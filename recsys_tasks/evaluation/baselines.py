"""What a model has to beat: popularity, and what the user bought most often. Both skip what is in the session
where sessions do not repeat items, as the model does."""

from __future__ import annotations

import numpy as np

from recsys_tasks.evaluation.metrics import MISSED
from recsys_tasks.evaluation.protocol import Questions
from recsys_tasks.features.encoding import EncodedSnapshot
from recsys_tasks.names import BASELINES, FIRST_ITEM, PERSONAL, POPULARITY


def baseline_ranks(encoded: EncodedSnapshot, asked: Questions, skip_session: bool) -> dict[str, np.ndarray]:
    """Rank [B] of each target by each baseline; `MISSED` where the target is not in the vocabulary.

    Popularity counts the training events; personal frequency counts the user's events before the session and
    breaks its ties by popularity.
    """
    timeline, size = encoded.timeline, len(encoded.vocabulary)
    counts = encoded.vocabulary.all_counts().astype(np.float64)
    popularity = counts / (counts.sum() + 1)
    ranks = {name: np.full(len(asked), MISSED) for name in BASELINES}
    for place, (first, target) in enumerate(zip(asked.first, asked.target, strict=True)):
        wanted = timeline.item[target]
        if wanted < FIRST_ITEM:
            continue
        past = timeline.item[timeline.user_start[timeline.user[first]] : first]
        personal = popularity + np.bincount(past, minlength=size)
        for name, scores in ((POPULARITY, popularity), (PERSONAL, personal)):
            above = scores >= scores[wanted]
            above[:FIRST_ITEM] = False
            if skip_session:
                above[timeline.item[first:target]] = False
                above[wanted] = True
            ranks[name][place] = above.sum()
    return ranks
