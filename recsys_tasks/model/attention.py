"""Attention, feed-forward and recurrent layers, with rotary position embeddings and a KV cache.

Letters in shapes: B rows, T queries, M keys, D embedding dimension, h heads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rotation(NamedTuple):
    """Cosine and sine of rotary angles, [B, 1, T, D/h/2] each."""

    cosine: Tensor
    sine: Tensor


def rotation(angle: Tensor) -> Rotation:
    """Rotation by angles [B, T, D/h/2], the same for all heads."""
    return Rotation(angle.cos()[:, None], angle.sin()[:, None])


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Applies a rotary embedding (RoPE; Su et al. 2021, RoFormer) to x [B, h, T, D/h].

    Angles grow with time or position, so the product of two rotated vectors depends only on their difference.
    """
    a, b = x.chunk(2, -1)
    return torch.cat([a * by.cosine - b * by.sine, a * by.sine + b * by.cosine], -1)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) that draws one random byte per element.

    PyTorch's own draws a full random number per element, which costs an eighth of a training step on a CPU. The rate is
    rounded to a multiple of 1/256.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.threshold = round(rate * 256)

    def forward(self, x: Tensor) -> Tensor:
        """x with dropped elements set to 0 and the others scaled up; x itself in evaluation mode."""
        if not self.training or not self.threshold:
            return x
        numbers = torch.empty(x.numel() // 8 + 1, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        mask = numbers.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return x * (mask * (256 / (256 - self.threshold))).to(x.dtype)


class KeyValue(NamedTuple):
    """Keys and values of positions [B, h, M, D/h]: one layer's part of a KV cache."""

    key: Tensor
    value: Tensor

    def append(self, later: KeyValue) -> KeyValue:
        """A new cache: these positions followed by later ones."""
        return KeyValue(torch.cat([self.key, later.key], 2), torch.cat([self.value, later.value], 2))


class Attention(nn.Module):
    """Multi-head scaled dot-product attention, softmax(Q Kᵀ / √d) V (Vaswani et al. 2017, equation 1)."""

    def __init__(self, embedding_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(embedding_dim, embedding_dim, bias=False)
        self.key_value = nn.Linear(embedding_dim, 2 * embedding_dim, bias=False)
        self.out = nn.Linear(embedding_dim, embedding_dim, bias=False)

    def forward(
        self, x: Tensor, source: Tensor, mask: Tensor | None, rotations: tuple[Rotation, Rotation] | None = None
    ) -> Tensor:
        """Attention [B, T, D] of `x` [B, T, D] over `source` [B, M, D]; causal without a mask."""
        query, (key, value) = (
            self._project_query(x, rotations and rotations[0]),
            self.project_key_value(source, rotations and rotations[1]),
        )
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return self._merge_heads(y)

    def project_key_value(self, source: Tensor, by: Rotation | None) -> KeyValue:
        """Keys and values of `source` [B, M, D], to be cached."""
        key, value = (self._split_heads(part) for part in self.key_value(source).chunk(2, -1))
        return KeyValue(key if by is None else rotate(key, by), value)

    def attend(self, x: Tensor, by: Rotation, cache: KeyValue, attn_bias: Tensor | None) -> Tensor:
        """Attention [B, T, D] of `x` [B, T, D] over a cache; `attn_bias` [B, 1, 1 or T, M] is added to the scores."""
        scores = self._project_query(x, by) @ (cache.key.transpose(2, 3) / math.sqrt(cache.key.shape[-1]))
        if attn_bias is not None:
            scores = scores + attn_bias
        return self._merge_heads(scores.softmax(-1) @ cache.value)

    def attend_locally(self, x: Tensor, mask: Tensor, by: Rotation) -> Tensor:
        """Self-attention in blocks of w positions, each over its own and the previous block.

        Cheaper than a full mask where sessions are short. Shapes: x [B, T, D], mask [B * T/w, 1, w, 2w].
        """
        length, size = x.shape[1], mask.shape[2]
        query, key, value = (
            F.pad(part, (0, 0, 0, -length % size)).unflatten(2, (-1, size)).transpose(1, 2)  # [B, T/w, h, w, D/h]
            for part in (self._project_query(x, by), *self.project_key_value(x, by))
        )
        key, value = (
            torch.cat([F.pad(part, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], part], 3).flatten(0, 1) for part in (key, value)
        )
        y = F.scaled_dot_product_attention(query.flatten(0, 1), key, value, attn_mask=mask)
        return self._merge_heads(y.unflatten(0, (len(x), -1)).transpose(1, 2).flatten(2, 3)[:, :, :length])

    def _project_query(self, x: Tensor, by: Rotation | None) -> Tensor:
        query = self._split_heads(self.query(x))
        return query if by is None else rotate(query, by)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, T, D] -> [B, h, T, D/h]

    def _merge_heads(self, x: Tensor) -> Tensor:
        merged: Tensor = self.out(x.transpose(1, 2).flatten(2))  # [B, h, T, D/h] -> [B, T, D]
        return merged


def local_mask(session: Tensor, size: int) -> Tensor:
    """Mask of `Attention.attend_locally`: a position sees earlier positions of its session, and itself.

    Shapes: session numbers [B, T] -> [B * ceil(T/size), 1, size, 2 * size].
    """
    blocks = F.pad(session, (0, -session.shape[1] % size), value=-2).unflatten(1, (-1, size))
    keys = torch.cat([F.pad(blocks, (0, 0, 1, 0), value=-1)[:, :-1], blocks], 2)
    column = torch.arange(2 * size, device=session.device)
    mask = (blocks[..., None] == keys[:, :, None]) & (column <= column[size:, None])
    return mask.flatten(0, 1)[:, None]


class FeedForward(nn.Sequential):
    """Layer norm, then two linear maps with a GELU between them."""

    def __init__(self, embedding_dim: int, ffn_multiplier: int) -> None:
        hidden_dim = embedding_dim * ffn_multiplier
        super().__init__(
            nn.LayerNorm(embedding_dim),
            nn.Linear(embedding_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, embedding_dim),
        )


class EncoderLayer(nn.Module):
    """Pre-norm encoder layer: causal self-attention over the history, then a feed-forward map."""

    def __init__(self, embedding_dim: int, num_heads: int, ffn_multiplier: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(embedding_dim), Attention(embedding_dim, num_heads)
        self.feed_forward, self.dropout = FeedForward(embedding_dim, ffn_multiplier), Dropout(dropout)

    def forward(self, x: Tensor, by: Rotation) -> Tensor:
        """Hidden states [B, H, D] of history events x [B, H, D], rotated by their times."""
        normed = self.norm(x)
        x = x + self.dropout(self.attention(normed, normed, None, (by, by)))
        return x + self.dropout(self.feed_forward(x))


class DecoderLayer(nn.Module):
    """Pre-norm decoder layer: causal self-attention over the session, cross-attention to the history, feed-forward."""

    def __init__(self, embedding_dim: int, num_heads: int, ffn_multiplier: int, dropout: float, history: bool) -> None:
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(embedding_dim), Attention(embedding_dim, num_heads)
        if history:
            self.cross_norm, self.cross_attention = nn.LayerNorm(embedding_dim), Attention(embedding_dim, num_heads)
        self.feed_forward, self.dropout = FeedForward(embedding_dim, ffn_multiplier), Dropout(dropout)

    def forward(self, x: Tensor, by: Rotation, session_mask: Tensor | None, memory: Memory | None) -> Tensor:
        """Hidden states [B, T, D] of session tokens x [B, T, D], rotated by their positions.

        Args:
            x, by: tokens and their rotations.
            session_mask: mask of `local_mask` where several sessions share a row; None where a row is one session.
            memory: the encoded history, if any.
        """
        normed = self.self_norm(x)
        if session_mask is None:
            x = x + self.dropout(self.self_attention(normed, normed, None, (by, by)))
        else:
            x = x + self.dropout(self.self_attention.attend_locally(normed, session_mask, by))
        if memory is not None:
            y = self.cross_attention(self.cross_norm(x), memory.states, memory.mask, memory.rotations)
            x = x + self.dropout(y)
        return x + self.dropout(self.feed_forward(x))

    def project_key_value(self, x: Tensor, by: Rotation) -> KeyValue:
        """Self-attention keys and values of tokens [B, T, D], to be cached for later tokens."""
        return self.self_attention.project_key_value(self.self_norm(x), by)

    def forward_cached(
        self,
        x: Tensor,
        by: Rotation,
        session: KeyValue,
        causal_bias: Tensor | None,
        history: tuple[KeyValue, Tensor, Rotation] | None,
    ) -> Tensor:
        """`forward` without dropout over cached keys and values.

        Args:
            x, by: tokens [B, T, D] of a session and their rotations.
            session: keys and values of all its tokens.
            causal_bias: added to the self-attention scores to hide later tokens [B, 1, 1 or T, M].
            history: keys and values of the history, the bias that hides its padding, and the rotation of the
                session's start time.
        """
        x = x + self.self_attention.attend(self.self_norm(x), by, session, causal_bias)
        if history is not None:
            cache, padding_bias, session_time = history
            x = x + self.cross_attention.attend(self.cross_norm(x), session_time, cache, padding_bias)
        y: Tensor = x + self.feed_forward(x)
        return y


class RecurrentLayer(nn.Module):
    """Gated recurrent unit (Cho et al. 2014) with the interface of `DecoderLayer`, for GRU4Rec-style models."""

    def __init__(self, embedding_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.gru = nn.LayerNorm(embedding_dim), nn.GRU(embedding_dim, embedding_dim, batch_first=True)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, by: Rotation, session_mask: Tensor | None, memory: Memory | None) -> Tensor:
        """Hidden states [B, T, D] of tokens x [B, T, D], one session a row; uses no rotation, mask or memory."""
        return x + self.dropout(self.gru(self.norm(x))[0])


class Memory(NamedTuple):
    """Input of cross-attention: encoded history [B, M, D], mask [B, 1, T or 1, M], rotations of queries and keys."""

    states: Tensor
    mask: Tensor
    rotations: tuple[Rotation, Rotation]
