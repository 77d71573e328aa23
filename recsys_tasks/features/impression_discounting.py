"""How people tire of what is shown again and again: what remains of the chance that they act on it.

Estimated from feedback and kept with each snapshot, so that the next model shows something else in time: impression
discounting (Lee, Lakshmanan, Tiwari and Shah 2014, "Modeling Impression Discounting in Large-scale Recommender
Systems").
"""

from __future__ import annotations

from typing import Final

import numpy as np

from recsys_tasks.features.position_bias import LEAST_CLICKS, falling

MOST_LOOKS: Final = 20
_ROUNDS = 100
_PRIOR_CLICKS = 20.0


def fatigue(score_size: np.ndarray, looks_before: np.ndarray, looks: np.ndarray, acted: np.ndarray) -> np.ndarray:
    """What remains [MOST_LOOKS + 1] of the chance to act on an item after 0, 1, … looks at it without acting.

    What is shown again is what the model thinks best, so that counts are compared among equal scores:
    acted ~ Poisson(looks · s(score) · r(looks before)), fitted by turns, with r(0) = 1 and r falling. A few clicks more
    than there are, as if nobody tired any further, keep what was rarely seen near what came before it.
    Empty where too little was clicked to say anything.

    Args:
        score_size: of the scores [N], any numbers.
        looks_before: at the same item [N]; at most MOST_LOOKS.
        looks, acted: how many looks were had then, and how often it was acted on [N].
    """
    if acted.sum() < LEAST_CLICKS:
        return np.zeros(0)
    _, size = np.unique(score_size, return_inverse=True)
    remains = np.ones(MOST_LOOKS + 1)
    of_looks = np.bincount(looks_before, acted, len(remains))
    of_size = np.bincount(size, acted)
    for _ in range(_ROUNDS):
        rate = of_size / np.maximum(np.bincount(size, looks * remains[looks_before]), 1e-12)
        usual = np.bincount(looks_before, looks * rate[size], len(remains))
        before = np.concatenate([[1.0], remains[:-1]])
        remains = (of_looks + _PRIOR_CLICKS * before) / (usual + _PRIOR_CLICKS)
        remains /= remains[0]
    found = falling(remains, np.bincount(looks_before, looks, len(remains)))
    return found / found[0]
