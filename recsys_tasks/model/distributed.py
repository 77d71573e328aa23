"""Data-parallel training with `torch.distributed`, started by `torchrun`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.settings import settings


@contextmanager
def process_group() -> Iterator[bool]:
    """Joins the process group of `torchrun`, if there is one; yields whether this process is rank 0."""
    if not is_started_by_torchrun():
        yield True
        return
    device = training_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def is_started_by_torchrun() -> bool:
    """Whether `torchrun` started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def training_device() -> torch.device:
    """The device of this process: that of `RECSYS_TRAINING_DEVICE`; by default its GPU if the machine has any, else the
    CPU.

    Raises:
        ConfigurationError: PyTorch finds no GPU, but the setting asks for one.
    """
    chosen, has_gpu = settings().training_device, torch.cuda.is_available()
    if chosen == "cuda" and not has_gpu:
        raise ConfigurationError(
            "RECSYS_TRAINING_DEVICE=cuda, but PyTorch finds no GPU; check the driver and that PyTorch has CUDA"
            f" (here {torch.__version__}), or unset it"
        )
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", local_rank) if has_gpu and chosen != "cpu" else torch.device("cpu")


def broadcast_text(text: str) -> str:
    """The text of rank 0, in every process; waits for rank 0."""
    if not dist.is_initialized():
        return text
    texts = [text]
    dist.broadcast_object_list(texts)
    return texts[0]


def rank_and_world_size() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def all_reduce_sums(*values: float) -> list[float]:
    """Each value summed over all processes."""
    if not dist.is_initialized():
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    reduced: list[float] = sums.tolist()
    return reduced


def broadcast_weights(weights: Iterable[Tensor]) -> None:
    """Replaces each weight by that of rank 0."""
    if not dist.is_initialized():
        return
    for weight in weights:
        dist.broadcast(weight.data, 0)


def all_reduce_gradients(weights: Iterable[Tensor]) -> None:
    """Replaces each gradient by its sum over all processes."""
    if not dist.is_initialized():
        return
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        dist.all_reduce(weight.grad)
