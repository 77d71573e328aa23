"""Log mass of the pointer (copy) logits in training, with a fused backward pass over [B, W, M]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recsys_tasks.model.softmax import at_least_float32

_MIN_MASS = 1e-30


def pointer_log_mass(logits: Tensor, item: Tensor, target: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Log mass of copying any event, and of copying an event with the target's item, [B, W] each.

    Args:
        logits: of copying each of M events at each position [B, W, M].
        item: the events' items [B, M].
        target: the positions' target items [B, W].
        allowed: events that each position may copy [B, W, M]; None for all.
    """
    total, hit = _PointerLogMass.apply(at_least_float32(logits), item, target, allowed)
    return total, hit


class _PointerLogMass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, item: Tensor, target: Tensor, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        max_logit = logits.amax(-1, keepdim=True)
        mass = (logits - max_logit).exp_()
        if allowed is not None:
            mass.mul_(allowed)
        hit = mass * (target[:, :, None] == item[:, None])
        total = mass.sum(-1).clamp(min=_MIN_MASS)
        hit_total = hit.sum(-1).clamp(min=_MIN_MASS)
        ctx.save_for_backward(mass, hit, total, hit_total)
        max_logit = max_logit.squeeze(-1)
        return total.log() + max_logit, hit_total.log() + max_logit

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        # d log Σ m / d logit = m / Σ m, for both sums.
        mass, hit, total, hit_total = ctx.saved_tensors
        return mass * (grads[0] / total)[..., None] + hit * (grads[1] / hit_total)[..., None], None, None, None
