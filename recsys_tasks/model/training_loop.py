"""The training loop: AdamW at a constant rate until validation stops improving, then a short decay on everything."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recsys_tasks.errors import InvariantError, NotEnoughData, OutOfMemory
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model import distributed
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import NetworkConfig, Sample
from recsys_tasks.model.windows import Spans, epoch_windows, window_batch
from recsys_tasks.names import FIRST_ITEM

log = logging.getLogger(__name__)
_Seen = TypeVar("_Seen")
_AVERAGED = 17  # the average of weights reaches back over about a sixteenth of the steps
_WARM_UP = (0.05, 100)  # share of the epochs, or steps, whichever is over first


@dataclass(frozen=True)
class Plan:
    """What a training decided by the clock; with it another training does the same whatever the time.

    Attributes:
        stable_steps: after how many steps the decay began; decay_events: how many events it had.
    """

    stable_steps: int
    decay_events: int


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        epochs, seconds: bounds of the whole training, the decay included; the earlier one counts.
        patience: validations without a better one after which the decay begins.
        judge_after: validate after at least so many events, when an epoch is over.
        decay: share of the training that the decay takes.
        plan: of an earlier training, to do the same again; `seconds` does not count then.
        window: events in a row, at most; batch_tokens: events in a batch, about.
        negatives: shared by a batch; 0 takes the softmax over all items. negative_power: exponent of the items'
            counts that they are drawn by.
    """

    epochs: int = 20
    seconds: float = 150.0
    patience: int = 3
    judge_after: int = 0
    decay: float = 0.35
    plan: Plan | None = None
    window: int = 256
    batch_tokens: int = 2048
    negatives: int = 1024
    negative_power: float = 0.75
    rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0


class TrainingData(NamedTuple):
    """What to learn from.

    Attributes:
        timeline: the events; counts: how often each item comes among them [V], for drawing negatives.
        stops: where each user's events for training end, until the decay [U].
        final_stops: the same for the decay [U], in which the events held out for validation take part.
        freshness: with what chance a window that ends with an event takes part in an epoch of the decay [N]; None
            where nothing is known of time.
        news: with what chance before the decay [N]; None where all do.
    """

    timeline: Timeline
    counts: np.ndarray
    stops: np.ndarray
    final_stops: np.ndarray
    freshness: np.ndarray | None = None
    news: np.ndarray | None = None


@dataclass
class TrainingReport:
    """What happened: figures of each epoch, what began the decay, and what was decided by the clock."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    stable_steps: int = 0
    decay_events: int = 0
    tokens_per_second: float = 0.0
    best_epoch: int = 0
    stopped_by: str = "epochs"

    @property
    def plan(self) -> Plan:
        """For a training that is to do the same."""
        return Plan(self.stable_steps, self.decay_events)


def build_network(config: NetworkConfig, vocabulary: Vocabulary, neighbours: np.ndarray | None = None) -> Recommender:
    """A fresh network for a vocabulary; its item biases start at the items' log shares of the training events.

    `neighbours` are those of each item [V, config.neighbours]; without them there is room for them.
    """
    if neighbours is None:
        neighbours = np.zeros((len(vocabulary), config.neighbours), np.int64)
    counts = np.maximum(vocabulary.all_counts(), 1)
    log_share = torch.from_numpy(np.log(counts / counts.sum())).float()
    return Recommender(config, torch.from_numpy(vocabulary.content()), log_share, torch.from_numpy(neighbours))


def train(
    network: Recommender,
    data: TrainingData,
    config: TrainingConfig,
    validate: Callable[[Recommender], float],
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, figures: None,
    checkpoint: Path | None = None,
    before_decay: Callable[[Recommender], None] = lambda network: None,
) -> TrainingReport:
    """Trains in place.

    The rate stays constant (after a warm-up) until the average of the weights (Polyak and Juditsky 1992) stops
    improving in validation or the time is nearly over; then, from the best average if it has stopped improving, it
    decays to nothing while the events held out so far take part: warm-up, stable, decay (Hu et al. 2024, MiniCPM).
    The network is left with the average of its last weights.

    Args:
        network: fresh, or with the weights to go on from.
        data: the events.
        config: the schedule.
        validate: the measure to maximise, taken of the average after every epoch.
        on_epoch: called with the number of the epoch and its figures.
        before_decay: called with the network, its weights averaged, while it has not seen what validation asks for.
        checkpoint: where to keep the state after each epoch; if there is one of the same training, it goes on there.

    Raises:
        NotEnoughData: there is no training event.
        InvariantError: the loss is not a number; names the batch.
        OutOfMemory: a batch does not fit; says what needs less.
    """
    loop = _Loop(network, data, config)
    if loop.tokens_per_epoch == 0:
        raise NotEnoughData("No event lies before the validation part: nothing to train on")
    loop.restore(checkpoint)
    while loop.phase != "done":
        figures = loop.epoch()
        if loop.due:
            figures["validation"] = loop.judge(validate)
        if loop.advance():
            loop.show(before_decay)
            loop.begin_decay()
        loop.report.epochs.append(figures)
        on_epoch(loop.number, figures)
        log.info(
            "Epoch %d: %s after %.0f s",
            loop.number,
            ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if name != "seconds"),
            loop.seconds,
        )
        loop.keep(checkpoint)
    loop.finish()
    if checkpoint is not None and loop.process == 0:
        checkpoint.unlink(missing_ok=True)
    return loop.report


class _Loop:
    """The state of one training: weights and their average, optimiser, schedule, counters.

    Phases are `stable`, `decay`, `done`. All randomness follows from the seed and the number of the epoch.
    """

    def __init__(self, network: Recommender, data: TrainingData, config: TrainingConfig) -> None:
        self.network, self.data, self.config = network, data, config
        self.device = network.items.bias.device
        weight = torch.from_numpy(data.counts.astype(np.float64)) ** config.negative_power
        weight[:FIRST_ITEM] = 0
        self.share = (weight / weight.sum()).float()
        self.weights: list[Tensor] = list(network.parameters())
        self.average = [weight.detach().clone() for weight in self.weights]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [w for w in self.weights if w.dim() > 1], "weight_decay": config.weight_decay},
                {"params": [w for w in self.weights if w.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=config.rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.report = TrainingReport()
        self.tokens_per_epoch = int((data.stops - data.timeline.user_start[:-1]).sum())
        self.phase, self.number, self.tokens, self.earlier_seconds = "stable", 0, 0, 0.0
        self.decay_from, self.best, self.best_average = 0, -math.inf, self.average
        self.judged, self.worse, self.stepping, self.best_tokens = 0, 0, 0.0, 0
        self.process, self.processes = distributed.place()
        self.clock = 0.0
        self.began = time.perf_counter()

    @property
    def _stops(self) -> np.ndarray:
        return self.data.stops if self.phase == "stable" else self.data.final_stops

    @property
    def seconds(self) -> float:
        """Time of the training so far, also before an interruption; the first process's, where there are several."""
        if self.processes > 1:
            return self.clock
        return self.earlier_seconds + time.perf_counter() - self.began

    @property
    def progress(self) -> float:
        """How much of the schedule is done: the larger of the share of the epochs and of the seconds."""
        return max(self._passes / self.config.epochs, self.seconds / self.config.seconds)

    @property
    def over(self) -> bool:
        """Whether the phase's events, or its time, are used up."""
        if self.phase == "decay":
            return self.decayed >= 1
        if self.config.plan is not None:
            return self.report.steps >= self.config.plan.stable_steps
        return self.progress >= 1 - self.config.decay

    @property
    def decayed(self) -> float:
        """How much of the decay is done."""
        return (self.tokens - self.decay_from) / self.report.decay_events

    @property
    def _passes(self) -> float:
        return self.tokens / self.tokens_per_epoch

    def epoch(self) -> dict[str, float]:
        """One pass over the training events, or less when its phase is over; its figures."""
        self.number += 1
        self.network.train()
        torch.manual_seed(self.config.seed * 100_003 + self.number)
        random = np.random.default_rng([self.config.seed, self.number])
        loss_sum, targets, began = 0.0, 0, self.seconds
        with tqdm(
            total=self.tokens_per_epoch,
            desc=f"epoch {self.number}",
            unit="tok",
            unit_scale=True,
            mininterval=5,
            file=sys.stdout,
        ) as bar:
            for span in self._spans(random):
                loss, count = self._step(span)
                loss_sum, targets = loss_sum + loss, targets + count
                self.report.steps += 1
                length = int((span[1] - span[0]).sum())
                self.tokens += length
                bar.update(length)
                bar.set_postfix(loss=f"{loss_sum / max(targets, 1):.3f}", refresh=False)
        self.network.eval()
        self.stepping += self.seconds - began
        return {"loss": loss_sum / max(targets, 1), "seconds": self.seconds}

    def _spans(self, random: np.random.Generator) -> Iterator[Spans]:
        timeline, config = self.data.timeline, self.config
        chance = self.data.freshness if self.phase == "decay" else self.data.news
        for span in epoch_windows(timeline, self._stops, config.window, config.batch_tokens, random, chance):
            if self.over:
                return
            yield span

    @property
    def due(self) -> bool:
        """Whether it is time to validate: before the decay, and after enough events since the last time."""
        return self.phase == "stable" and self.tokens - self.judged >= self.config.judge_after

    def judge(self, validate: Callable[[Recommender], float]) -> float:
        """Validation of the average of the weights; keeps the best."""
        measure = self.show(validate)
        self.judged, self.worse = self.tokens, self.worse + 1
        if measure > self.best:
            self.best, self.report.best_epoch, self.worse, self.best_tokens = measure, self.number, 0, self.tokens
            self.best_average = [weight.clone() for weight in self.average]
        return measure

    def show(self, look: Callable[[Recommender], _Seen]) -> _Seen:
        """What `look` sees in the network with the average of its weights."""
        self._swap()
        try:
            return look(self.network)
        finally:
            self._swap()

    def advance(self) -> bool:
        """Goes on to the next phase if this one is over; whether that is the decay."""
        if self.phase == "decay":
            self.phase = "done" if self.over else "decay"
            return False
        tired = self.worse >= self.config.patience
        if tired:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.best_average)
                torch._foreach_copy_(self.average, self.best_average)
        if tired or self.over:
            by_time = self.seconds / self.config.seconds >= 1 - self.config.decay
            planned = self.config.plan is not None
            self.report.stopped_by = "patience" if tired else "plan" if planned else "seconds" if by_time else "epochs"
            self.phase = "decay"
        return self.phase == "decay"

    def begin_decay(self) -> None:
        """From here on the rate falls, over a share of the events behind the weights that it begins with, or as many
        as the time is enough for."""
        self.decay_from, self.report.stable_steps = self.tokens, self.report.steps
        behind = self.best_tokens if self.report.stopped_by == "patience" else self.tokens
        wanted = self.config.decay / (1 - self.config.decay) * behind
        left = max(self.config.seconds - self.seconds, 0.0) * self.tokens / max(self.stepping, 1e-9)
        plan = self.config.plan
        self.report.decay_events = max(int(min(wanted, left)) if plan is None else plan.decay_events, 1)

    def finish(self) -> None:
        """Leaves the network with the average of its weights, and completes the report."""
        self._swap()
        self.network.eval()
        self.report.seconds = self.seconds
        self.report.tokens_per_second = self.tokens / max(self.seconds, 1e-9)

    def keep(self, path: Path | None) -> None:
        """Writes the state."""
        if path is None or self.process:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "config": asdict(self.config),
            "network": self.network.state_dict(),
            "average": self.average,
            "best_average": self.best_average,
            "optimizer": self.optimizer.state_dict(),
            "report": asdict(self.report),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "seconds": self.seconds,
        }
        written = path.with_suffix(".new")
        torch.save(state, written)
        written.replace(path)

    def restore(self, path: Path | None) -> None:
        """Goes on from a state of the same training, if there is one."""
        if path is None or not path.exists():
            return
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=self.device)
        if state["config"] != asdict(self.config):
            log.warning("%s is of a training with other settings; starting again", path)
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.best_average = state["average"], state["best_average"]
        self.report = TrainingReport(**state["report"])
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.earlier_seconds = state["seconds"]
        log.info("Going on after epoch %d of an interrupted training", self.number)

    def _swap(self) -> None:
        """The weights and their average change places."""
        for weight, average in zip(self.weights, self.average, strict=True):
            weight.data, average.data = average.data, weight.data

    def _step(self, span: Spans) -> tuple[float, int]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * self._rate()
        try:
            loss, count = self._learn(span)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise OutOfMemory(
                    f"No memory for a batch of {self.config.batch_tokens} events in windows of {self.config.window}; "
                    "fewer items (a higher RECSYS_MIN_ITEM_EVENTS) or a smaller network (a shorter "
                    "RECSYS_TRAINING_SECONDS) need less"
                ) from error
            raise
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, _AVERAGED / (self.report.steps + _AVERAGED))
        return loss, count

    def _learn(self, span: Spans) -> tuple[float, int]:
        """Gradients of the mean loss over a batch; the loss's sum and what its targets count, over all processes."""
        start, stop = (edge[self.process :: self.processes] for edge in span)
        if len(start):
            batch = window_batch(self.data.timeline, start, stop, self.network.config.history)
            next_item, intent, targets = self.network.loss(_to(batch, self.device), self._sample())
        else:
            next_item = intent = self.network.items.bias.sum() * 0
            targets = torch.zeros(())
        spent = self.earlier_seconds + time.perf_counter() - self.began if self.process == 0 else 0.0
        summed, count, self.clock = distributed.total(next_item.item(), float(targets), spent)
        if not math.isfinite(summed):
            raise InvariantError(
                f"The loss is {summed} at step {self.report.steps}, in windows from events {span[0].tolist()[:8]} "
                "on; train from the start, or with another RECSYS_SEED"
            )
        self.optimizer.zero_grad(set_to_none=True)
        ((next_item + intent) / max(count, 1)).backward()
        distributed.add_gradients(self.weights)
        return summed, int(count)

    def _sample(self) -> Sample | None:
        if not self.config.negatives:
            return None
        drawn = torch.multinomial(self.share, self.config.negatives, replacement=True)
        return Sample(drawn.to(self.device), torch.log(self.config.negatives * self.share[drawn]).to(self.device))

    def _rate(self) -> float:
        """Share of the full rate."""
        if self.phase == "decay":
            return 1 - math.sqrt(min(self.decayed, 1.0))
        share, steps = _WARM_UP
        return min(1.0, max((self._passes / self.config.epochs + 1e-3) / share, (self.report.steps + 1) / steps))


_COUNTERS = ("phase", "number", "tokens", "decay_from", "best", "judged", "worse", "stepping", "best_tokens")


def _to(part: Any, device: torch.device) -> Any:
    """A batch, tuples of tensors in tuples, on a device."""
    if part is None or isinstance(part, Tensor):
        return part if part is None else part.to(device)
    return type(part)(*(_to(inner, device) for inner in part))
