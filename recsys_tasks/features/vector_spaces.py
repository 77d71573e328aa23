"""Item vectors of pretrained encoders as inputs of the network: same center, same length, few dimensions.

Letters in shapes: V items in the vocabulary, N vectors, D dimensions of a space, T dimensions that the network reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_tasks.features.vocabulary import Vocabulary

_MAX_DIM, _MIN_NORM = 128, 1e-6


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
    """
    table = table.filter(pc.is_in(table["item_id"], pa.array(vocabulary.item_ids, pa.string())))
    names = pc.binary_join_element_wise(table["space"], table["version"], " ")
    columns: dict[str, np.ndarray] = {}
    for name in sorted(pc.unique(names).to_pylist()):
        rows = table.filter(pc.equal(names, name)).combine_chunks()
        given = pc.list_flatten(rows["vector"]).to_numpy().astype(np.float32).reshape(len(rows), -1)
        vectors = np.zeros((len(vocabulary), given.shape[1]), np.float32)
        vectors[vocabulary.numbers(rows["item_id"].to_pylist())] = given
        columns[name.strip()] = prepare_vectors(vectors)
    dims = {name: vectors.shape[1] for name, vectors in columns.items()}
    return VectorSpaces(dims, np.concatenate(list(columns.values()), axis=1)) if columns else None


def prepare_vectors(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors [N, D] without their common mean, of at most 128 dimensions and of length 1 on average [N, T].

    Vectors of length 0 stay so. A random orthogonal projection makes vectors shorter (Johnson and Lindenstrauss 1984).
    It is fixed, so that a warm start has the same axes.
    """
    is_given = vectors.any(1)
    if not is_given.any():
        return vectors[:, :0]
    prepared = np.zeros_like(vectors)
    prepared[is_given] = vectors[is_given] - vectors[is_given].mean(0)
    dimension = vectors.shape[1]
    if dimension > _MAX_DIM:
        axes = np.linalg.qr(np.random.default_rng(0).standard_normal((dimension, dimension)))[0]
        prepared = prepared @ axes[:, :_MAX_DIM].astype(np.float32)
    return prepared / max(float(np.linalg.norm(prepared[is_given], axis=1).mean()), _MIN_NORM)
