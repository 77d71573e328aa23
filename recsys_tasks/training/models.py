"""Plugin models: models that packages add by entry points of the group `recsys_tasks.models`.

An entry point names a function that takes a `ModelInput` and returns a fitted `VectorModel`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from recsys_tasks.engine.session_decoder import MAX_HISTORY_EVENTS
from recsys_tasks.errors import ConfigurationError
from recsys_tasks.evaluation.protocol import PredictionTasks, Scorer
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.model.vector_model import VectorModel
from recsys_tasks.names import BASELINES, FIRST_ITEM, NETWORKS, TRANSFORMER
from recsys_tasks.plugins import MODEL_GROUP, check_plugin_names, load_plugin, plugin_names
from recsys_tasks.training.recipe import session_events, training_events


class ModelInput(NamedTuple):
    """Training data, time budget and seed of a plugin model.

    Attributes:
        data: the events; those up to `final_stops` are for training, those up to `stops` precede the validation part.
        vocabulary: of the items; numbers below `FIRST_ITEM` are no items.
        seconds: time budget.
        seed: of all randomness.
    """

    data: TrainingData
    vocabulary: Vocabulary
    seconds: float
    seed: int

    @property
    def num_items(self) -> int:
        """Size of the vocabulary, V."""
        return len(self.vocabulary)

    @property
    def _final(self) -> TrainingData:
        return self.data._replace(stops=self.data.final_stops)

    def sessions(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the session number, in order of time, and the item number of each training event [N]."""
        return session_events(self._final)

    def sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the item numbers of the training events [N], by user and time, and the user number of each [N]."""
        timeline, events = self.data.timeline, training_events(self._final)
        events = events[timeline.item[events] >= FIRST_ITEM]
        return timeline.item[events], timeline.user[events]


ModelFitter = Callable[[ModelInput], VectorModel]


def load_model_fitter(name: str) -> ModelFitter:
    """Returns the function that fits a plugin model.

    Raises:
        ConfigurationError: no package adds a model of that name, or it cannot be imported.
    """
    check_plugin_names(MODEL_GROUP, {*NETWORKS, *BASELINES})
    if name not in plugin_names(MODEL_GROUP):
        known = ", ".join([TRANSFORMER, *plugin_names(MODEL_GROUP)])
        raise ConfigurationError(
            f"Unknown model {name}. Available: {known}. Correct RECSYS_MODEL or --model, or install the package that"
            " adds it"
        )
    fitter: ModelFitter = load_plugin(MODEL_GROUP, name)
    return fitter


def vector_scorer(model: VectorModel, timeline: Timeline) -> Scorer:
    """Returns a fitted model as a scorer of all items."""
    model.session.eval()

    vectors, items = torch.from_numpy(model.served_vectors()), timeline.item

    def scores(tasks: PredictionTasks) -> np.ndarray:
        begin = timeline.user_start[timeline.user[tasks.first]]
        begin = np.maximum(begin, tasks.first - MAX_HISTORY_EVENTS)  # as many as the endpoint reads
        parts = zip(begin.tolist(), tasks.first.tolist(), tasks.target.tolist(), strict=True)
        directions = [
            model.direction(vectors, items[start:first], items[first:target]) for start, first, target in parts
        ]
        found: np.ndarray = np.stack(directions) @ vectors.numpy().T + model.bias
        return found

    return scores
