"""Item vectors of pretrained encoders as inputs of the network: same center, same length, few dimensions.

Letters in shapes: V items in the vocabulary, N vectors, D dimensions of a space, T dimensions that the network reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_tasks.errors import InvariantError
from recsys_tasks.features.vocabulary import Vocabulary

_MAX_DIM = 128
_MIN_LENGTH = 1e-3  # of the mean; below it, unit vectors are the same but for rounding


class VectorSpaces(NamedTuple):
    """Vectors of items in the spaces of a shop's own encoders.

    Attributes:
        dims: T of each space, by its name and version.
        vectors: those of all spaces, side by side in this order; zero where an item has none [V, ΣT].
    """

    dims: dict[str, int]
    vectors: np.ndarray


def read_vector_spaces(table: pa.Table, vocabulary: Vocabulary) -> VectorSpaces | None:
    """Returns the vectors of a vocabulary's items; None if no item has one.

    Args:
        table: `item_id`, `space`, `version` and `vector`, one version of each space.
        vocabulary: of the items; vectors of others are left out.

    Raises:
        InvariantError: the vectors of a space have different dimensions.
    """
    table = table.filter(pc.is_in(table["item_id"], pa.array(vocabulary.item_ids, pa.string())))
    names = pc.binary_join_element_wise(table["space"], table["version"], " ")
    columns: dict[str, np.ndarray] = {}
    for name in sorted(pc.unique(names).to_pylist()):
        rows = table.filter(pc.equal(names, name))
        prepared = prepare_vectors(_unit_vectors(rows["vector"], name))
        columns[name.strip()] = np.zeros((len(vocabulary), prepared.shape[1]), np.float32)
        columns[name.strip()][vocabulary.numbers(rows["item_id"].to_pylist())] = prepared
    dims = {name: vectors.shape[1] for name, vectors in columns.items()}
    return VectorSpaces(dims, np.concatenate(list(columns.values()), axis=1)) if columns else None


def _unit_vectors(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Returns the vectors of a space with length 1 [N, D]: encoders differ in length, and an outlier would rule."""
    sizes = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(sizes) != 1:
        raise InvariantError(f"The vectors of the space {name!r} have {sizes} dimensions; ingestion lets only one in")
    parts = [pc.list_flatten(chunk).to_numpy(zero_copy_only=False).reshape(-1, sizes[0]) for chunk in column.chunks]
    vectors = np.concatenate(parts).astype(np.float64)
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(float).tiny)
    return unit.astype(np.float32)


def prepare_vectors(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors [N, D] without their common mean, of at most 128 dimensions and of length 1 on average [N, T].

    Vectors of length 0 stay so, and all become so if they are the same. A random orthogonal projection makes vectors
    shorter (Johnson and Lindenstrauss 1984). It is fixed, so that a warm start has the same axes.
    """
    is_given = vectors.any(1)
    if not is_given.any():
        return vectors[:, :0]
    given = vectors[is_given] - vectors[is_given].mean(0, dtype=np.float64).astype(np.float32)
    dimension = vectors.shape[1]
    drawn = np.random.default_rng(0).standard_normal((dimension, dimension))[:, :_MAX_DIM]
    projected = given @ np.linalg.qr(drawn)[0].astype(np.float32)
    prepared = np.zeros((len(vectors), projected.shape[1]), np.float32)
    length = float(np.linalg.norm(projected, axis=1).mean())
    if length >= _MIN_LENGTH:
        prepared[is_given] = projected / length
    return prepared
