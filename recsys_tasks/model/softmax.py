"""Log of a softmax denominator over many items, computed in chunks with fused gradients."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

_CHUNK_SCORES = {"cpu": 1_000_000, "cuda": 64_000_000}  # of one chunk: what fits a CPU's cache, or keeps a GPU busy
_MIN_CHUNK = 32  # states; each chunk reads all item vectors and their gradients


@cache
def gradient_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def log_mass(
    state: Tensor,
    vectors: Tensor,
    bias: Tensor,
    other: Tensor,
    weight: Tensor,
    excluded: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Weighted sum over states of log(exp(other) + Σ_i exp(state · vector_i + bias_i)).

    Computes gradients chunk by chunk in the forward pass, so that scores are computed once and never stored: three
    matrix products and one exponential per item, as in fused linear cross entropy (Hsu et al. 2024, Liger Kernel).

    Args:
        state: [N, D].
        vectors, bias: of the items [K, D] and [K].
        other: a further logit of each state [N].
        weight: of each state [N].
        excluded: an id of each vector [K] and of each state [N]; a state ignores vectors with its own id.
    """
    with torch.autocast(state.device.type, enabled=False):
        mass: Tensor = _LogMass.apply(
            *(at_least_float32(part) for part in (state, vectors, bias, other, weight)), excluded
        )
    return mass


def at_least_float32(values: Tensor) -> Tensor:
    """Products in bfloat16 as float32, in which sums of many exponentials are exact enough; others as they are."""
    return values.float() if values.dtype is torch.bfloat16 else values


class _LogMass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        state: Tensor,
        vectors: Tensor,
        bias: Tensor,
        other: Tensor,
        weight: Tensor,
        excluded: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        log_masses, grad_state = torch.empty_like(other), torch.empty_like(state)
        grad_vectors, grad_bias = torch.zeros_like(vectors), torch.zeros_like(bias)
        size = max(_MIN_CHUNK, _CHUNK_SCORES[state.device.type] // max(1, len(vectors)))
        # Scores stay in float32. Their gradients tolerate noise and take the faster dtype.
        dtype = gradient_dtype(state.device)
        fast_vectors, fast_state = vectors.to(dtype), state.to(dtype)
        for begin in range(0, len(state), size):
            chunk = slice(begin, begin + size)
            mass = torch.addmm(bias, state[chunk], vectors.T)
            if excluded is not None:
                mass.masked_fill_(excluded[0] == excluded[1][chunk, None], -1e4)
            max_logit = torch.maximum(mass.amax(-1), other[chunk])
            mass.sub_(max_logit[:, None]).exp_()
            total = mass.sum(-1).add_((other[chunk] - max_logit).exp())
            log_masses[chunk] = total.log() + max_logit
            mass.mul_((weight[chunk] / total)[:, None])
            grad_bias += mass.sum(0)
            probabilities = mass.to(dtype)
            grad_state[chunk] = probabilities @ fast_vectors
            grad_vectors += probabilities.T @ fast_state[chunk]
        ctx.save_for_backward(grad_state, grad_vectors, grad_bias, weight * (other - log_masses).exp())
        return (weight * log_masses).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*(gradient * grads[0] for gradient in ctx.saved_tensors), None, None)
