"""Attention: what a position reads of others."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021, RoFormer), by angles that grow with time or with the place in a session.

    Shapes: x [B, h, T, D/h], angle [B or 1, 1, T, D/h/2]. The product of two rotated vectors depends on the
    difference of their angles only.
    """
    a, b = x.chunk(2, -1)
    cosine, sine = angle.cos(), angle.sin()
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention, softmax(Q Kᵀ / √d) V (Vaswani et al. 2017, equation 1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, source: Tensor, mask: Tensor | None, angles: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """What positions `x` [B, T, D] read of `source` [B, M, D]; without a mask each sees those not after it."""
        query, key, value = self._project(x, source, angles)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return self._join(read)

    def local(self, x: Tensor, mask: Tensor, angle: Tensor) -> Tensor:
        """Self-attention in blocks of w positions that see their own block and the one before.

        Cheaper than a full mask where sessions are short. Shapes: x [B, T, D], mask [B * T/w, 1, w, 2w].
        """
        length, size = x.shape[1], mask.shape[2]
        query, key, value = (
            F.pad(part, (0, 0, 0, -length % size)).unflatten(2, (-1, size)).transpose(1, 2)  # [B, T/w, h, w, D/h]
            for part in self._project(x, x, (angle, angle))
        )
        key, value = (
            torch.cat([F.pad(part, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], part], 3).flatten(0, 1) for part in (key, value)
        )
        read = F.scaled_dot_product_attention(query.flatten(0, 1), key, value, attn_mask=mask)
        return self._join(read.unflatten(0, (len(x), -1)).transpose(1, 2).flatten(2, 3)[:, :, :length])

    def _project(
        self, x: Tensor, source: Tensor, angles: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        query = self._split(self.query(x))
        key, value = (self._split(part) for part in self.key_value(source).chunk(2, -1))
        if angles is not None:
            query, key = rotate(query, angles[0]), rotate(key, angles[1])
        return query, key, value

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
        self.feed_forward, self.drop = FeedForward(width, expansion), nn.Dropout(dropout)

    def forward(self, x: Tensor, angle: Tensor) -> Tensor:
        """History [B, H, D] with the angles of its times [B, 1, H, D/h/2]."""
        normed = self.norm(x)
        x = x + self.drop(self.attention(normed, normed, None, (angle, angle)))
        return x + self.drop(self.feed_forward(x))


class DecoderLayer(nn.Module):
    """Causal self-attention over the session, cross-attention to the history, then a feed-forward map."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float, history: bool) -> None:
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, heads)
        if history:
            self.cross_norm, self.cross_attention = nn.LayerNorm(width), Attention(width, heads)
        self.feed_forward, self.drop = FeedForward(width, expansion), nn.Dropout(dropout)

    def forward(self, x: Tensor, angle: Tensor, own: Tensor | None, memory: Memory | None) -> Tensor:
        """Session tokens [B, T, D] with the angles of their places, over a memory if there is one.

        `own` is the mask of `Attention.local` where several sessions share a row, None where a row is one session.
        """
        normed = self.self_norm(x)
        if own is None:
            x = x + self.drop(self.self_attention(normed, normed, None, (angle, angle)))
        else:
            x = x + self.drop(self.self_attention.local(normed, own, angle))
        if memory is not None:
            read = self.cross_attention(self.cross_norm(x), memory.states, memory.visible, memory.angles)
            x = x + self.drop(read)
        return x + self.drop(self.feed_forward(x))


class RecurrentLayer(nn.Module):
    """A gated recurrent unit (Cho et al. 2014) in the decoder's place, for the GRU4Rec family of models."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.unit = nn.LayerNorm(width), nn.GRU(width, width, batch_first=True)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, angle: Tensor, own: Tensor | None, memory: Memory | None) -> Tensor:
        """Tokens [B, T, D] of one session a row; places follow from the order."""
        return x + self.drop(self.unit(self.norm(x))[0])


class Memory(NamedTuple):
    """What cross-attention reads: states [B, M, D], which of them each token sees [B, 1, T or 1, M], both angles."""

    states: Tensor
    visible: Tensor
    angles: tuple[Tensor, Tensor]
