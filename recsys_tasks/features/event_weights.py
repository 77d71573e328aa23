"""Event weights: the strength of an event as implicit feedback, by type and dwell time (Hu, Koren and Volinsky 2008).

A shop needs none: all events count alike. A news site wants long reads and shares to count more than a click.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.features.sequences import stable_argsort
from recsys_tasks.names import EVENT_TYPE_CODES

EventType = Literal["view", "add_to_cart", "purchase"]


class EventWeight(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Weight of the events of a type.

    Attributes:
        weight: of an event of this type; 0: no interest.
        full_dwell_seconds: an event with a shorter dwell time (property `dwell_seconds`) has a part of the weight, in
            proportion; None, or an event without one: the whole weight.
    """

    weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    full_dwell_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None


EventWeights = Mapping[EventType, EventWeight]


def load_event_weights(path: Path | None) -> EventWeights:
    """Reads a TOML file with a table per event type; without a file, all events have weight 1.

    Raises:
        ConfigurationError: the file cannot be read, or names an unknown event type or key.
    """
    if path is None:
        return {}
    try:
        return msgspec.toml.decode(path.read_bytes(), type=dict[EventType, EventWeight])
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"The event weights in {path} cannot be read: {error}") from error


def event_weights(weights: EventWeights, kind: np.ndarray, dwell_seconds: np.ndarray) -> np.ndarray:
    """Returns the weight of each event [N].

    Args:
        weights: by event type; 1 for other types.
        kind: event type code of each event [N].
        dwell_seconds: dwell time of each event [N]; NaN without one.
    """
    found = np.ones(len(kind))
    for name, rule in weights.items():
        of_type = kind == EVENT_TYPE_CODES[name]
        part = np.ones(int(of_type.sum()))
        if rule.full_dwell_seconds is not None:
            part = np.clip(np.nan_to_num(dwell_seconds[of_type] / rule.full_dwell_seconds, nan=1.0), 0.0, 1.0)
        found[of_type] = rule.weight * part
    return found


def intent_weights(weight: np.ndarray, session: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Returns for each event [N] the largest weight among the events of its session with the same item.

    The first event with an item is the one that the model learns to predict: it counts as much as the strongest event
    that it led to, such as the share of an article after its read.

    Args:
        weight: of each event [N].
        session, item: session and item of each event [N].
    """
    pair = session.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
    order = stable_argsort(pair)
    starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
    largest = np.maximum.reduceat(weight[order], starts) if len(starts) else weight
    result = np.empty(len(weight))
    result[order] = np.repeat(largest, np.diff(starts, append=len(weight)))
    return result
