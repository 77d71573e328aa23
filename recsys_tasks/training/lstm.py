"""A plain LSTM that predicts the next item: the classic baseline (Hochreiter and Schmidhuber 1997; Hidasi et al. 2016).

One layer of width 128 over the latest events of a user, history and session alike, input and output embeddings tied and
of unit length, softmax over all items or sampled ones. No features besides the items.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys_tasks.errors import NotEnoughData
from recsys_tasks.model.vector_model import VectorModel
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.training.models import ModelInput

_WIDTH: Final = 128
_LENGTH: Final = 50  # latest events that are read
_BATCH, _LEARNING_RATE, _DROPOUT = 256, 2e-3, 0.25
_NUM_NEGATIVES, _MAX_FULL_SOFTMAX_ITEMS = 2_048, 10_000
_MAX_EPOCHS = 100


class LSTMSession(nn.Module):
    """The LSTM's state after the latest events, as the vector of a session."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_WIDTH, _WIDTH, batch_first=True)
        self.output = nn.Linear(_WIDTH, _WIDTH)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, history: Tensor, session: Tensor) -> Tensor:
        """The vector [1, D] of a session; see `VectorModel.session`."""
        return self.states(torch.cat([history, session[:, 1:]], 1)[:, -_LENGTH:])[:, -1]

    def states(self, vectors: Tensor) -> Tensor:
        """The state [B, T, D] after each of the vectors [B, T, D]."""
        hidden, _ = self.lstm(self.dropout(vectors))
        state: Tensor = self.output(self.dropout(hidden))
        return state


def fit(given: ModelInput) -> VectorModel:
    """Returns an LSTM trained on the sequences of all users, within the time budget.

    Raises:
        NotEnoughData: no user has two events.
    """
    started = time.monotonic()
    torch.manual_seed(given.seed)
    rows = _sequences(given)
    if not len(rows):
        raise NotEnoughData("No user has two events to train an LSTM on; collect events for more days")
    num_negatives = 0 if given.num_items <= _MAX_FULL_SOFTMAX_ITEMS else _NUM_NEGATIVES
    counts = torch.bincount(torch.from_numpy(rows.ravel()), minlength=given.num_items).double()
    counts[:FIRST_ITEM] = 0
    items, module = nn.Embedding(given.num_items, _WIDTH), LSTMSession()
    nn.init.normal_(items.weight, std=_WIDTH**-0.5)
    bias = nn.Parameter(torch.log((counts + 0.5) / (counts.sum() + given.num_items)).float())
    optimizer = torch.optim.Adam([*items.parameters(), *module.parameters(), bias], lr=_LEARNING_RATE)
    random, epochs = np.random.default_rng(given.seed), 0
    while epochs < _MAX_EPOCHS and time.monotonic() - started < given.seconds:
        order = random.permutation(len(rows))
        for begin in range(0, len(order), _BATCH):
            batch = torch.from_numpy(rows[order[begin : begin + _BATCH]])
            loss = _loss(F.normalize(items.weight, dim=-1), bias, module, batch, counts, num_negatives)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if time.monotonic() - started >= given.seconds:
                break
        epochs += 1
    vectors = F.normalize(items.weight.detach(), dim=-1).numpy().copy()
    vectors[counts.numpy() == 0] = 0.0  # nothing is known of items without an event
    parameters = {"width": _WIDTH, "length": _LENGTH, "epochs": epochs, "num_negatives": num_negatives}
    return VectorModel(vectors, bias.detach().numpy().copy(), module.eval(), parameters)


def _sequences(given: ModelInput) -> np.ndarray:
    """Item numbers [B, _LENGTH + 1] of all users, in pieces that overlap by one event, padded with 0 at the end."""
    item, user = given.sequences()
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    pieces = []
    for start, stop in zip(starts, np.append(starts[1:], len(user)), strict=True):
        for begin in range(start, stop - 1, _LENGTH):
            piece = item[begin : min(begin + _LENGTH + 1, stop)]
            pieces.append(np.pad(piece, (0, _LENGTH + 1 - len(piece))))
    return np.asarray(pieces, np.int64).reshape(-1, _LENGTH + 1)


def _loss(
    vectors: Tensor, bias: Tensor, module: LSTMSession, batch: Tensor, counts: Tensor, num_negatives: int
) -> Tensor:
    """Mean cross-entropy of the next items; with negatives by count and the correction for it (logQ)."""
    length = int((batch > 0).sum(1).max())
    batch = batch[:, :length]
    state = module.states(F.embedding(batch[:, :-1], vectors))
    target = batch[:, 1:]
    known = target >= FIRST_ITEM
    state, target = state[known], target[known]
    if not num_negatives:
        return F.cross_entropy(state @ vectors.T + bias, target)
    probability = counts**0.75 / (counts**0.75).sum()
    drawn = torch.multinomial(probability, num_negatives, replacement=True)
    logits = state @ vectors[drawn].T + bias[drawn] - torch.log(num_negatives * probability[drawn]).float()
    logits = logits.masked_fill(drawn == target[:, None], -1e4)
    positive = (state * vectors[target]).sum(-1) + bias[target]
    return F.cross_entropy(torch.cat([positive[:, None], logits], 1), torch.zeros_like(target))
