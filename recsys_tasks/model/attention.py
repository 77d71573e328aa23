"""Attention: what a position reads of others."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Turn(NamedTuple):
    """Cosine and sine of the angles of positions [B, 1, T, D/h/2]."""

    cosine: Tensor
    sine: Tensor


def turn(angle: Tensor) -> Turn:
    """Of angles [B, T, D/h/2], for all heads."""
    return Turn(angle.cos()[:, None], angle.sin()[:, None])


def rotate(x: Tensor, by: Turn) -> Tensor:
    """Rotary embedding (Su et al. 2021, RoFormer) of x [B, h, T, D/h], by angles that grow with time or place.

    The product of two rotated vectors depends on the difference of their angles only.
    """
    a, b = x.chunk(2, -1)
    return torch.cat([a * by.cosine - b * by.sine, a * by.sine + b * by.cosine], -1)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) whose mask takes a byte of a random number for each element.

    PyTorch's own draws a number for each, which on a processor is an eighth of a training step. The rate is rounded to
    a 256th.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = round(rate * 256)

    def forward(self, x: Tensor) -> Tensor:
        """x, some of its elements zero and the others larger by as much; in evaluation x itself."""
        if not self.training or not self.dropped:
            return x
        numbers = torch.empty(x.numel() // 8 + 1, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = numbers.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped
        return x * (kept * (256 / (256 - self.dropped))).to(x.dtype)


class KeyValue(NamedTuple):
    """What attention reads of positions: their keys and values [B, h, M, D/h]."""

    key: Tensor
    value: Tensor

    def followed_by(self, later: KeyValue) -> KeyValue:
        """These positions and some after them."""
        return KeyValue(torch.cat([self.key, later.key], 2), torch.cat([self.value, later.value], 2))


class Attention(nn.Module):
    """Multi-head scaled dot-product attention, softmax(Q Kᵀ / √d) V (Vaswani et al. 2017, equation 1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None, turns: tuple[Turn, Turn] | None = None) -> Tensor:
        """What positions `x` [B, T, D] read of `source` [B, M, D]; without a mask each sees those not after it."""
        query, (key, value) = self._query(x, turns and turns[0]), self.keep(source, turns and turns[1])
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return self._join(read)

    def keep(self, source: Tensor, by: Turn | None) -> KeyValue:
        """What can be kept of `source` [B, M, D] for all who read it."""
        key, value = (self._split(part) for part in self.key_value(source).chunk(2, -1))
        return KeyValue(key if by is None else rotate(key, by), value)

    def read(self, x: Tensor, by: Turn, kept: KeyValue, hidden: Tensor | None) -> Tensor:
        """What positions `x` [B, T, D] read of what was kept; `hidden` [B, 1, 1 or T, M] is added to the scores."""
        scores = self._query(x, by) @ (kept.key.transpose(2, 3) / math.sqrt(kept.key.shape[-1]))
        if hidden is not None:
            scores = scores + hidden
        return self._join(scores.softmax(-1) @ kept.value)

    def local(self, x: Tensor, mask: Tensor, by: Turn) -> Tensor:
        """Self-attention in blocks of w positions that see their own block and the one before.

        Cheaper than a full mask where sessions are short. Shapes: x [B, T, D], mask [B * T/w, 1, w, 2w].
        """
        length, size = x.shape[1], mask.shape[2]
        query, key, value = (
            F.pad(part, (0, 0, 0, -length % size)).unflatten(2, (-1, size)).transpose(1, 2)  # [B, T/w, h, w, D/h]
            for part in (self._query(x, by), *self.keep(x, by))
        )
        key, value = (
            torch.cat([F.pad(part, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], part], 3).flatten(0, 1) for part in (key, value)
        )
        read = F.scaled_dot_product_attention(query.flatten(0, 1), key, value, attn_mask=mask)
        return self._join(read.unflatten(0, (len(x), -1)).transpose(1, 2).flatten(2, 3)[:, :, :length])

    def _query(self, x: Tensor, by: Turn | None) -> Tensor:
        query = self._split(self.query(x))
        return query if by is None else rotate(query, by)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, T, D] -> [B, h, T, D/h]

    def _join(self, read: Tensor) -> Tensor:
        joined: Tensor = self.out(read.transpose(1, 2).flatten(2))  # [B, h, T, D/h] -> [B, T, D]
        return joined


def local_mask(session: Tensor, size: int) -> Tensor:
    """Which positions of the block before and its own a position sees: those of its session, not after it.

    Shapes: session numbers [B, T] -> [B * ceil(T/size), 1, size, 2 * size].
    """
    blocks = F.pad(session, (0, -session.shape[1] % size), value=-2).unflatten(1, (-1, size))
    keys = torch.cat([F.pad(blocks, (0, 0, 1, 0), value=-1)[:, :-1], blocks], 2)
    column = torch.arange(2 * size, device=session.device)
    mask = (blocks[..., None] == keys[:, :, None]) & (column <= column[size:, None])
    return mask.flatten(0, 1)[:, None]


class FeedForward(nn.Sequential):
    """Two linear maps with a GELU between, on a normalised input."""

    def __init__(self, width: int, expansion: int) -> None:
        hidden = width * expansion
        super().__init__(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class EncoderLayer(nn.Module):
    """Causal self-attention over the history, then a feed-forward map; both residual and pre-normalised."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.feed_forward, self.drop = FeedForward(width, expansion), Dropout(dropout)

    def forward(self, x: Tensor, by: Turn) -> Tensor:
        """History [B, H, D], turned by its times."""
        normed = self.norm(x)
        x = x + self.drop(self.attention(normed, normed, None, (by, by)))
        return x + self.drop(self.feed_forward(x))


class DecoderLayer(nn.Module):
    """Causal self-attention over the session, cross-attention to the history, then a feed-forward map."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float, history: bool) -> None:
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, heads)
        if history:
            self.cross_norm, self.cross_attention = nn.LayerNorm(width), Attention(width, heads)
        self.feed_forward, self.drop = FeedForward(width, expansion), Dropout(dropout)

    def forward(self, x: Tensor, by: Turn, own: Tensor | None, memory: Memory | None) -> Tensor:
        """Session tokens [B, T, D], turned by their places, over a memory if there is one.

        `own` is the mask of `Attention.local` where several sessions share a row, None where a row is one session.
        """
        normed = self.self_norm(x)
        if own is None:
            x = x + self.drop(self.self_attention(normed, normed, None, (by, by)))
        else:
            x = x + self.drop(self.self_attention.local(normed, own, by))
        if memory is not None:
            read = self.cross_attention(self.cross_norm(x), memory.states, memory.visible, memory.turns)
            x = x + self.drop(read)
        return x + self.drop(self.feed_forward(x))

    def keep(self, x: Tensor, by: Turn) -> KeyValue:
        """What later tokens of the session read of tokens [B, T, D]."""
        return self.self_attention.keep(self.self_norm(x), by)

    def read(
        self,
        x: Tensor,
        by: Turn,
        session: KeyValue,
        later: Tensor | None,
        history: tuple[KeyValue, Tensor, Turn] | None,
    ) -> Tensor:
        """The same as `forward` without dropout, for tokens [B, T, D] over what was kept.

        Args:
            x, by: some tokens of a session and their turns.
            session: of all its tokens; later: [B, 1, 1 or T, M], what hides those after each.
            history: what was kept of it, what hides its padding, and the turn of the session's time.
        """
        x = x + self.self_attention.read(self.self_norm(x), by, session, later)
        if history is not None:
            kept, hidden, since = history
            x = x + self.cross_attention.read(self.cross_norm(x), since, kept, hidden)
        found: Tensor = x + self.feed_forward(x)
        return found


class RecurrentLayer(nn.Module):
    """A gated recurrent unit (Cho et al. 2014) in the decoder's place, for the GRU4Rec family of models."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.unit = nn.LayerNorm(width), nn.GRU(width, width, batch_first=True)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, by: Turn, own: Tensor | None, memory: Memory | None) -> Tensor:
        """Tokens [B, T, D] of one session a row; places follow from the order."""
        return x + self.drop(self.unit(self.norm(x))[0])


class Memory(NamedTuple):
    """What cross-attention reads: states [B, M, D], which of them each token sees [B, 1, T or 1, M], and both turns."""

    states: Tensor
    visible: Tensor
    turns: tuple[Turn, Turn]
