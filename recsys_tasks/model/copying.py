"""The copy head's mass in training: sums over [B, W, W] in as few passes over memory as possible."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NEGLIGIBLE = 1e-30


class CopyMass(torch.autograd.Function):
    """Log of the copy mass of all events, and of those with the target's item."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, item: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scores [B, W, W], items [B, W] and which events each position may copy [B, W, W] -> two [B, W]."""
        top = scores.amax(-1, keepdim=True)
        mass = (scores - top).exp_()
        if allowed is not None:
            mass.mul_(allowed)
        hit = mass * (item[:, :, None] == item[:, None])
        total = mass.sum(-1).clamp(min=_NEGLIGIBLE)
        hit_total = hit.sum(-1).clamp(min=_NEGLIGIBLE)
        ctx.save_for_backward(mass, hit, total, hit_total)
        top = top.squeeze(-1)
        return total.log() + top, hit_total.log() + top

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """d log Σ m / d score = m / Σ m, for both sums."""
        mass, hit, total, hit_total = ctx.saved_tensors
        return mass * (grads[0] / total)[..., None] + hit * (grads[1] / hit_total)[..., None], None, None
