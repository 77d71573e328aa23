"""A run's model, opened for lists on a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recsys_tasks.engine.bundle import VOCABULARY
from recsys_tasks.engine.catalog import CatalogColumns
from recsys_tasks.evaluation.protocol import PredictionTasks, RankingResult
from recsys_tasks.evaluation.served_lists import Moments, list_served, rank_served
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot, encode_snapshot
from recsys_tasks.features.serving_data import catalog_columns
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.files import TrainedModel, load_model
from recsys_tasks.model.vector_model import is_vector_model
from recsys_tasks.registry import versions


class OpenedModel(NamedTuple):
    """A run's model, its files, and a snapshot in its item numbers with its item metadata.

    `model` is None for a plugin model, which has files only.
    """

    model: TrainedModel | None
    folder: Path
    encoded: EncodedSnapshot
    catalog: CatalogColumns

    def rank(self, tasks: PredictionTasks) -> RankingResult:
        """Ranks the targets of tasks as the endpoint would."""
        return rank_served(self.folder, self.encoded, tasks, self.catalog)

    def list_at(self, moments: Moments, k: int) -> np.ndarray:
        """Returns the item numbers [B, k] that the endpoint would list at moments, padded with 0."""
        return list_served(self.folder, self.encoded, moments, self.catalog, k)


@contextmanager
def open_model(run_id: str, snapshot: Snapshot) -> Iterator[OpenedModel]:
    """Opens a run's model for the evaluation on a snapshot."""
    with versions.download_model_files(run_id) as folder:
        model = None if is_vector_model(folder) else load_model(folder)
        vocabulary = Vocabulary.load(folder / VOCABULARY) if model is None else model.vocabulary
        catalog = catalog_columns(snapshot.item_table(), vocabulary)
        yield OpenedModel(model, folder, encode_snapshot(snapshot, vocabulary), catalog)
