"""LightGCN (He et al. 2020) as a model of its own package.

Item embeddings are averaged over the graph of sessions and items, and trained so that an item of a session scores
higher than a random one (BPR, Rendle et al. 2009). A session has the mean of its latest items' vectors.
"""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from recsys_tasks.model.vector_model import VectorModel
from recsys_tasks.training.models import ModelInput

DIMENSION, LAYERS = 64, 2
LATEST, DECAY = 10, 0.8  # events that a session is described by, and the weight of each earlier one
BATCH, LEARNING_RATE, REGULARIZATION = 4_096, 5e-3, 1e-4
MAX_STEPS, STEPS_PER_PROPAGATION = 5_000, 8
SCALE = 8.0  # of the scores, which the endpoint reads as logits


class RecentMean(nn.Module):
    """The weighted mean of the latest events, as the vector of a session."""

    def forward(self, history: Tensor, session: Tensor) -> Tensor:
        """The vector [1, D], see `VectorModel.session`; the first row of the session is its start."""
        events = torch.cat([history, session[:, 1:]], 1)[:, -LATEST:]
        age = torch.arange(events.shape[1] - 1, -1, -1)
        return SCALE * F.normalize((DECAY ** age[:, None] * events).sum(1), dim=-1)


def fit(given: ModelInput) -> VectorModel:
    """Returns LightGCN fitted to the sessions, within the time budget."""
    started = time.monotonic()
    torch.manual_seed(given.seed)
    session, item = given.sessions()
    graph = normalized_graph(session, item, given.num_items)
    sessions = nn.Parameter(0.1 * torch.randn(graph.shape[0], DIMENSION))
    items = nn.Parameter(0.1 * torch.randn(given.num_items, DIMENSION))
    optimizer = torch.optim.Adam([sessions, items], lr=LEARNING_RATE)
    random, steps = np.random.default_rng(given.seed), 0
    while steps < MAX_STEPS and time.monotonic() - started < given.seconds:
        session_vectors, item_vectors = propagate(graph, sessions, items)
        loss = torch.zeros(())
        for _ in range(STEPS_PER_PROPAGATION):
            drawn = random.integers(len(item), size=BATCH)
            positive, negative = item[drawn], item[random.integers(len(item), size=BATCH)]
            user = session_vectors[session[drawn]]
            gain = (user * (item_vectors[positive] - item_vectors[negative])).sum(-1)
            norms = user.square().sum() + item_vectors[positive].square().sum() + item_vectors[negative].square().sum()
            loss = loss - F.logsigmoid(gain).mean() + REGULARIZATION * norms / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    with torch.no_grad():
        vectors = F.normalize(propagate(graph, sessions, items)[1], dim=-1).numpy()
    counts = np.bincount(item, minlength=given.num_items)
    vectors[counts == 0] = 0  # no session has these items
    bias = 0.3 * np.log((counts + 0.5) / (counts.sum() + 1)).astype(np.float32)
    return VectorModel(vectors, bias, RecentMean(), {"dimension": DIMENSION, "layers": LAYERS, "steps": steps})


def normalized_graph(session: np.ndarray, item: np.ndarray, num_items: int) -> Tensor:
    """The matrix of sessions and items [S, V], each entry divided by the root of the product of both degrees."""
    pairs = np.unique(np.stack([session, item], 1), axis=0)
    shape = int(session.max()) + 1, num_items
    matrix = sparse.csr_matrix((np.ones(len(pairs), np.float32), (pairs[:, 0], pairs[:, 1])), shape)
    degrees = [np.maximum(np.asarray(matrix.sum(axis)).ravel(), 1) ** -0.5 for axis in (1, 0)]
    matrix = (sparse.diags(degrees[0]) @ matrix @ sparse.diags(degrees[1])).tocoo()
    indices = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
    return torch.sparse_coo_tensor(indices, torch.from_numpy(matrix.data.astype(np.float32)), matrix.shape).coalesce()


def propagate(graph: Tensor, sessions: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the embeddings of all layers, of sessions and of items."""
    layers = [(sessions, items)]
    for _ in range(LAYERS):
        of_sessions, of_items = layers[-1]
        layers.append((torch.sparse.mm(graph, of_items), torch.sparse.mm(graph.t(), of_sessions)))
    return torch.stack([of for of, _ in layers]).mean(0), torch.stack([of for _, of in layers]).mean(0)
