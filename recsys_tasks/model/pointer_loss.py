"""The copy head's mass in training: sums over [B, W, M] in as few passes over memory as possible."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NEGLIGIBLE = 1e-30


def copy_mass(scores: Tensor, item: Tensor, target: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Log of the mass of copying any event, and of copying one with the target's item, [B, W] each.

    Args:
        scores: of copying M events from each position [B, W, M].
        item: the events' items [B, M]; target: the positions' targets [B, W].
        allowed: which events each position may copy [B, W, M]; None for all.
    """
    total, hit = _CopyMass.apply(scores, item, target, allowed)
    return total, hit


class _CopyMass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, item: Tensor, target: Tensor, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        top = scores.amax(-1, keepdim=True)
        mass = (scores - top).exp_()
        if allowed is not None:
            mass.mul_(allowed)
        hit = mass * (target[:, :, None] == item[:, None])
        total = mass.sum(-1).clamp(min=_NEGLIGIBLE)
        hit_total = hit.sum(-1).clamp(min=_NEGLIGIBLE)
        ctx.save_for_backward(mass, hit, total, hit_total)
        top = top.squeeze(-1)
        return total.log() + top, hit_total.log() + top

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        # d log Σ m / d score = m / Σ m, for both sums.
        mass, hit, total, hit_total = ctx.saved_tensors
        return mass * (grads[0] / total)[..., None] + hit * (grads[1] / hit_total)[..., None], None, None, None
