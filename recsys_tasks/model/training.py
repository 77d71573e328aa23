"""The training loop: AdamW, warm-up and cosine decay, sampled softmax, early stopping on a validation measure."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recsys_tasks.errors import InvariantError, NotEnoughData
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.network import NetworkConfig, Recommender, Window
from recsys_tasks.model.windows import Spans, epoch_windows, training_stops, window_batch
from recsys_tasks.names import FIRST_ITEM

log = logging.getLogger(__name__)
_LEAST_RATE = 0.02


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. `seconds` bounds the time: the schedule ends there if the epochs have not ended before."""

    epochs: int = 20
    seconds: float = 150.0
    patience: int = 3
    window: int = 256
    batch_tokens: int = 2048
    negatives: int = 1024
    negative_power: float = 0.75
    rate: float = 3e-3
    weight_decay: float = 0.01
    warm_up: float = 0.05
    seed: int = 0


@dataclass
class TrainingReport:
    """What happened: figures of each epoch, and why training ended."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    tokens_per_second: float = 0.0
    best_epoch: int = 0
    stopped_by: str = "epochs"


def build_network(config: NetworkConfig, vocabulary: Vocabulary) -> Recommender:
    """A fresh network for a vocabulary; its item biases start at the items' log shares of the training events."""
    counts = np.maximum(vocabulary.all_counts(), 1)
    categories, _ = vocabulary.categories()
    log_share = torch.from_numpy(np.log(counts / counts.sum())).float()
    return Recommender(config, torch.from_numpy(categories), log_share)


def train(
    network: Recommender,
    timeline: Timeline,
    split: np.ndarray,
    vocabulary: Vocabulary,
    config: TrainingConfig,
    validate: Callable[[Recommender], float],
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, figures: None,
) -> TrainingReport:
    """Trains in place on the sessions of part 0 and leaves the weights of the best epoch.

    Args:
        network: fresh, or with the weights to go on from.
        timeline, split, vocabulary: an encoded snapshot.
        config: the schedule.
        validate: the measure to maximise, taken after every epoch.
        on_epoch: called with the number of the epoch and its figures.

    Raises:
        NotEnoughData: there is no training event.
        InvariantError: the loss is not a number; names the batch.
    """
    torch.manual_seed(config.seed)
    loop = _Loop(network, timeline, training_stops(timeline, split), vocabulary, config)
    if loop.tokens_per_epoch == 0:
        raise NotEnoughData("No event lies before the validation part: nothing to train on")
    report = TrainingReport()
    best, best_state = -math.inf, {name: value.clone() for name, value in network.state_dict().items()}
    for epoch in range(1, config.epochs + 1):
        loss = loop.epoch(epoch)
        measure = validate(network)
        figures = {"loss": loss, "validation": measure, "seconds": loop.seconds}
        report.epochs.append(figures)
        on_epoch(epoch, figures)
        log.info("Epoch %d: loss %.4f, validation %.4f after %.0f s", epoch, loss, measure, loop.seconds)
        if measure > best:
            best, report.best_epoch = measure, epoch
            best_state = {name: value.clone() for name, value in network.state_dict().items()}
        elif epoch - report.best_epoch >= config.patience:
            report.stopped_by = "patience"
            break
        if loop.out_of_time:
            report.stopped_by = "seconds"
            break
    network.load_state_dict(best_state)
    network.eval()
    report.seconds, report.steps = loop.seconds, loop.steps
    report.tokens_per_second = loop.tokens / max(loop.seconds, 1e-9)
    return report


class _Loop:
    """The state of one training: optimiser, schedule, random numbers, counters."""

    def __init__(
        self,
        network: Recommender,
        timeline: Timeline,
        stops: np.ndarray,
        vocabulary: Vocabulary,
        config: TrainingConfig,
    ) -> None:
        self.network, self.timeline, self.stops, self.config = network, timeline, stops, config
        self.tokens_per_epoch = int((stops - timeline.user_start[:-1]).sum())
        self.random = np.random.default_rng(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)
        weight = torch.from_numpy(vocabulary.all_counts().astype(np.float64)) ** config.negative_power
        weight[:FIRST_ITEM] = 0
        self.share = (weight / weight.sum()).float()
        matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
        vectors = [parameter for parameter in network.parameters() if parameter.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.seconds, self.steps, self.tokens = 0.0, 0, 0

    @property
    def progress(self) -> float:
        """How much of the schedule is done: the larger of the share of the epochs and of the seconds."""
        return max(self.tokens / (self.tokens_per_epoch * self.config.epochs), self.seconds / self.config.seconds)

    @property
    def out_of_time(self) -> bool:
        return self.seconds >= self.config.seconds

    def epoch(self, number: int) -> float:
        """One pass over the training events, or less when the time is over; the mean loss."""
        self.network.train()
        loss_sum, targets = 0.0, 0
        spans = epoch_windows(self.timeline, self.stops, self.config.window, self.config.batch_tokens, self.random)
        title = f"epoch {number}"
        with tqdm(
            total=self.tokens_per_epoch, desc=title, unit="tok", unit_scale=True, mininterval=5, file=sys.stdout
        ) as bar:
            for span in spans:
                if self.out_of_time:
                    break
                began = time.perf_counter()
                loss, count = self._step(span)
                loss_sum, targets = loss_sum + loss, targets + count
                self.seconds += time.perf_counter() - began
                self.steps += 1
                length = int((span[1] - span[0]).sum())
                self.tokens += length
                bar.update(length)
                bar.set_postfix(loss=f"{loss_sum / max(targets, 1):.3f}", refresh=False)
        self.network.eval()
        return loss_sum / max(targets, 1)

    def _step(self, span: Spans) -> tuple[float, int]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * _schedule(self.progress, self.config.warm_up)
        negatives = torch.multinomial(self.share, self.config.negatives, replacement=True, generator=self.generator)
        log_expected = torch.log(self.config.negatives * self.share[negatives])
        device = self.network.items.bias.device
        window = _to(window_batch(self.timeline, *span), device)
        loss, count = self.network.loss(window, negatives.to(device), log_expected.to(device))
        if not torch.isfinite(loss):
            raise InvariantError(
                f"The loss is {loss.item()} at step {self.steps}, in windows from events {span[0].tolist()[:8]} on; "
                "lower the rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        (loss / count.clamp(min=1)).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach()), int(count)


def _schedule(progress: float, warm_up: float) -> float:
    """Share of the full rate: linear warm-up, then half a cosine."""
    decay = _LEAST_RATE + (1 - _LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (progress + 1e-3) / warm_up) * decay


def _to(window: Window, device: torch.device) -> Window:
    def move(value: Tensor) -> Tensor:
        return value.to(device)

    return Window(type(window.events)(*map(move, window.events)), *map(move, window[1:]))
