import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys_tasks.model import softmax
from recsys_tasks.model.pointer_loss import pointer_log_mass
from recsys_tasks.model.softmax import log_mass


def _random_inputs(seed: int, states: int, items: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    parts = torch.randn(states, 8), torch.randn(items, 8), torch.randn(items), torch.randn(states)
    return tuple(part.requires_grad_() for part in parts)  # type: ignore[return-value]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 20), st.booleans())
def test_log_mass_and_its_gradients_equal_the_plain_formula(seed: int, states: int, items: int, exclude: bool) -> None:
    state, vectors, bias, other = _random_inputs(seed, states, items)
    vector_ids, state_ids = torch.arange(items), torch.arange(states) % (items + 1)
    scores = state @ vectors.T + bias
    if exclude:
        scores = scores.masked_fill(vector_ids == state_ids[:, None], -1e4)
    weight = torch.rand(states) + 0.1
    plain = (weight * torch.logaddexp(other, scores.logsumexp(1))).sum()
    fused = log_mass(state, vectors, bias, other, weight, (vector_ids, state_ids) if exclude else None)
    assert fused.item() == pytest.approx(plain.item(), rel=1e-5, abs=1e-4)
    expected = torch.autograd.grad(plain, (state, vectors, bias, other))
    found = torch.autograd.grad(fused, (state, vectors, bias, other))
    for ours, theirs in zip(found, expected, strict=True):
        # Gradients may be computed in bfloat16, with 8 bits of precision.
        assert torch.allclose(ours, theirs, atol=0.05 * (1 + float(theirs.abs().max())))


def test_the_chunk_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = (*_random_inputs(0, states=40, items=20), torch.rand(40))
    whole = log_mass(*inputs)
    monkeypatch.setattr(softmax, "_MIN_CHUNK", 3)
    monkeypatch.setitem(softmax._CHUNK_SCORES, "cpu", 50)
    assert log_mass(*inputs).item() == pytest.approx(whole.item(), rel=1e-6)


@given(st.integers(0, 1000))
def test_pointer_log_mass_is_the_log_of_the_sum_over_allowed_events(seed: int) -> None:
    torch.manual_seed(seed)
    scores = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    item, target = torch.randint(0, 4, (2, 7)), torch.randint(0, 4, (2, 5))
    allowed = torch.rand(2, 5, 7) > 0.3
    total, hit = pointer_log_mass(scores, item, target, allowed)
    mass = scores.exp() * allowed
    same = target[:, :, None] == item[:, None]
    assert torch.allclose(total[allowed.any(-1)], mass.sum(-1).log()[allowed.any(-1)])
    some = (same & allowed).any(-1)
    assert torch.allclose(hit[some], (mass * same).sum(-1).log()[some])
    (ours,) = torch.autograd.grad(total[allowed.any(-1)].sum(), scores, retain_graph=True)
    (theirs,) = torch.autograd.grad(mass.sum(-1)[allowed.any(-1)].log().sum(), scores)
    assert torch.allclose(ours, theirs)
