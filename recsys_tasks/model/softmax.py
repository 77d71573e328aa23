"""The log of a softmax's denominator over many items, without ever holding all scores at once."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

_SCORES_AT_ONCE = 1_000_000  # a chunk that stays in the processor's cache


@cache
def gradient_type(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, else float32."""
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def log_mass(
    state: Tensor,
    vectors: Tensor,
    bias: Tensor,
    other: Tensor,
    weight: Tensor,
    hidden: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Weighted sum over states [N, D] of log(exp(other) + Σ_i exp(state · vector_i + bias_i)), for vectors [K, D] and
    weights [N].

    `hidden` are a name of each vector [K] and for each state the name [N] of vectors that do not count for it.

    The gradients are made beside the forward pass, chunk by chunk, so that scores are computed once and never
    stored: three matrix products and one exponential an item, as in fused linear cross entropy (Hsu et al. 2024,
    Liger Kernel).
    """
    found: Tensor = _LogMass.apply(state, vectors, bias, other, weight, hidden)
    return found


class _LogMass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        state: Tensor,
        vectors: Tensor,
        bias: Tensor,
        other: Tensor,
        weight: Tensor,
        hidden: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        rows, grad_state = torch.empty_like(other), torch.empty_like(state)
        grad_vectors, grad_bias = torch.zeros_like(vectors), torch.zeros_like(bias)
        size = max(1, _SCORES_AT_ONCE // max(1, len(vectors)))
        # Scores are exact; their gradients, which noise does not hurt, take the fast number format.
        fast = gradient_type(state.device)
        fast_vectors, fast_state = vectors.to(fast), state.to(fast)
        for begin in range(0, len(state), size):
            part = slice(begin, begin + size)
            mass = torch.addmm(bias, state[part], vectors.T)
            if hidden is not None:
                mass.masked_fill_(hidden[0] == hidden[1][part, None], -1e4)
            top = torch.maximum(mass.amax(-1), other[part])
            mass.sub_(top[:, None]).exp_()
            total = mass.sum(-1).add_((other[part] - top).exp())
            rows[part] = total.log() + top
            mass.mul_((weight[part] / total)[:, None])
            grad_bias += mass.sum(0)
            shares = mass.to(fast)
            grad_state[part] = shares @ fast_vectors
            grad_vectors += shares.T @ fast_state[part]
        ctx.save_for_backward(grad_state, grad_vectors, grad_bias, weight * (other - rows).exp())
        return (weight * rows).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*(kept * grads[0] for kept in ctx.saved_tensors), None, None)
