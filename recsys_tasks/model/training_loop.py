"""Training loop: AdamW at a constant learning rate until validation stops improving, then a decay on all events."""

from __future__ import annotations

import io
import logging
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recsys_tasks.errors import InvariantError, NotEnoughData, OutOfMemory
from recsys_tasks.features.item_neighbors import ItemNeighbors
from recsys_tasks.features.popularity_prior import log_popularity
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model import distributed
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import ComponentWeights, ItemInputs, NegativeSample, NetworkConfig
from recsys_tasks.model.windows import Spans, epoch_windows, window_batch
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.storage.folder import StoredFile

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_AVERAGING = 17  # the moving average of the weights covers about the last sixteenth of the steps
_MIXTURE_RATE_FACTOR = 10.0  # of the learning rate, for `Recommender.mixture_parameters`
_WARM_UP = (0.05, 100)  # share of the epochs, or steps; the shorter one counts


@dataclass(frozen=True)
class TrainingPlan:
    """Lengths of a training's phases, which depended on the clock; with it the training can be reproduced.

    Attributes:
        stable_steps: steps before the decay.
        decay_events: events of the decay.
    """

    stable_steps: int
    decay_events: int


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of a training.

    Attributes:
        epochs, seconds: limits of the whole training, decay included; the one reached first counts. The evaluations
            between the phases may exceed the seconds.
        patience: number of validations without improvement that start the decay.
        validation_interval_events: minimum number of events between validations; they run at the end of an epoch.
        decay_fraction: share of the training that the decay takes.
        keep_best: whether to end with the weights that validate best, the initial ones included; for a warm start.
        plan: phase lengths of an earlier training to reproduce; `seconds` is ignored then.
        window_size: maximum number of events of a window.
        batch_tokens: approximate number of events of a batch.
        num_negatives: negatives shared by a batch; 0 uses the softmax over all items.
        negative_power: exponent of the item counts that negatives are sampled by.
        learning_rate: of the constant phase.
        weight_decay: of matrices; vectors have none.
        precision: of matrix products; weights, optimizer and softmax stay in float32.
        seed: of negatives, windows and dropout.
    """

    epochs: int = 20
    seconds: float = 150.0
    patience: int = 3
    validation_interval_events: int = 0
    decay_fraction: float = 0.35
    keep_best: bool = False
    plan: TrainingPlan | None = None
    window_size: int = 256
    batch_tokens: int = 2048
    num_negatives: int = 1024
    negative_power: float = 0.75
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0


class TrainingData(NamedTuple):
    """Events to train on.

    Attributes:
        timeline: the events.
        counts: count of each item among the events [V], for sampling negatives.
        stops: end of each user's training events before the decay [U].
        final_stops: the same in the decay [U], which includes the validation events.
        recency_weights: in the decay, inclusion probability of a window by its last event [N]; None includes all.
        replay_weights: the same before the decay [N].
        neighbors, final_neighbors: item neighbors in the training events before the decay, and in it.
    """

    timeline: Timeline
    counts: np.ndarray
    stops: np.ndarray
    final_stops: np.ndarray
    recency_weights: np.ndarray | None = None
    replay_weights: np.ndarray | None = None
    neighbors: ItemNeighbors | None = None
    final_neighbors: ItemNeighbors | None = None


@dataclass
class TrainingReport:
    """Metrics of each epoch, the reason for the decay, and the phase lengths."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    stable_steps: int = 0
    decay_events: int = 0
    tokens_per_second: float = 0.0
    best_epoch: int = 0
    stopped_by: str = "epochs"
    discovery_weight: float = 1.0
    session_neighbor_weight: float = 0.0

    @property
    def component_weights(self) -> ComponentWeights:
        """Weights of the components that validation chose."""
        return ComponentWeights(self.discovery_weight, self.session_neighbor_weight)

    @property
    def plan(self) -> TrainingPlan:
        """Phase lengths, to reproduce the training."""
        return TrainingPlan(self.stable_steps, self.decay_events)


def build_network(
    config: NetworkConfig,
    vocabulary: Vocabulary,
    neighbors: np.ndarray | None = None,
    text: np.ndarray | None = None,
    spaces: np.ndarray | None = None,
    expected_counts: np.ndarray | None = None,
) -> Recommender:
    """An untrained network; its item biases are the items' expected log shares of future events.

    Args:
        config: sizes.
        vocabulary: of the items.
        neighbors: each item's [V, config.num_neighbors]; None fills them with padding.
        text: each item's text vector [V, config.text_dim]; None fills them with zeros.
        spaces: each item's vectors of all spaces [V, sum of config.vector_spaces]; None fills them with zeros.
        expected_counts: of new items [V], see `popularity_prior.expected_counts`; None for none.
    """
    num_items = len(vocabulary)
    if text is None:
        text = np.zeros((num_items, config.text_dim), np.float32)
    if spaces is None:
        spaces = np.zeros((num_items, sum(config.vector_spaces.values())), np.float32)
    if neighbors is None:
        neighbors = np.zeros((num_items, config.num_neighbors), np.int64)
    log_share = log_popularity(vocabulary.training_counts(), expected_counts).astype(np.float32)
    arrays = vocabulary.content_matrix(), text, spaces, log_share, neighbors
    return Recommender(config, ItemInputs(*map(torch.from_numpy, arrays)))


def parameter_groups(network: Recommender, config: TrainingConfig) -> list[dict[str, Any]]:
    """Groups of parameters with their learning rate and weight decay."""
    mixture = {id(parameter) for parameter in network.mixture_parameters}
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for parameter in network.parameters():
        factor = _MIXTURE_RATE_FACTOR if id(parameter) in mixture else 1.0
        weight_decay = config.weight_decay if parameter.dim() > 1 else 0.0
        groups[factor * config.learning_rate, weight_decay].append(parameter)
    return [
        {"params": parameters, "initial_lr": rate, "weight_decay": weight_decay}
        for (rate, weight_decay), parameters in groups.items()
    ]


def train(
    network: Recommender,
    data: TrainingData,
    config: TrainingConfig,
    validate: Callable[[Recommender], float],
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, figures: None,
    checkpoint: StoredFile | None = None,
    choose_weights: Callable[[Recommender], ComponentWeights] = lambda network: ComponentWeights(),
) -> TrainingReport:
    """Trains a network in place; leaves it with the average of its last weights, or with `keep_best` the best average.

    The schedule is warm-up, stable, decay (Hu et al. 2024, MiniCPM). The learning rate is constant after the warm-up
    until the moving average of the weights (Polyak and Juditsky 1992) stops improving in validation, or the epochs or
    seconds are nearly used up. Then it decays to 0 while the validation events join the training. The decay starts from
    the best average if validation stopped improving.

    Args:
        network: untrained, or with the weights to start from.
        data: the events.
        config: hyperparameters.
        validate: metric to maximize, computed with the averaged weights.
        on_epoch: called with the number of each epoch and its metrics.
        checkpoint: file of the training state, written after each epoch, to be removed by the caller. An existing one
            of the same training is resumed.
        choose_weights: called with the averaged network before the decay phase; returns the component weights of the
            report.

    Raises:
        NotEnoughData: there is no training event.
        InvariantError: the loss is not finite; names the batch.
        OutOfMemory: a batch does not fit; says what needs less.
    """
    trainer = _Trainer(network, data, config)
    if trainer.tokens_per_epoch == 0:
        raise NotEnoughData("There is no event before the validation part to train on; collect events for more days")
    trainer.load_checkpoint(checkpoint)
    if config.keep_best and trainer.epoch == 0:
        trainer.validate(validate)
    while trainer.phase != "done":
        figures = trainer.run_epoch()
        if trainer.is_validation_due:
            figures["validation"] = trainer.validate(validate)
        if trainer.advance_phase():
            weights = trainer.evaluate_average(choose_weights)
            trainer.report.discovery_weight = weights.discovery
            trainer.report.session_neighbor_weight = weights.session_neighbors
            trainer.start_decay()
        trainer.report.epochs.append(figures)
        on_epoch(trainer.epoch, figures)
        if trainer.rank == 0:
            log.info(
                "Epoch %d: %s after %.0f s",
                trainer.epoch,
                ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if name != "seconds"),
                trainer.seconds,
            )
        trainer.save_checkpoint(checkpoint)
    if config.keep_best:
        trainer.validate(validate)
        trainer.return_to_best()
    trainer.finish()
    return trainer.report


class _Trainer:
    """State of a training: weights and their moving average, optimizer, schedule and counters.

    The phases are `stable`, `decay` and `done`. All randomness derives from the seed and the epoch number.
    """

    def __init__(self, network: Recommender, data: TrainingData, config: TrainingConfig) -> None:
        self.network, self.data, self.config = network, data, config
        if data.neighbors is not None:
            network.item_neighbors = data.neighbors
        self.device = network.items.bias.device
        # Half a count keeps untrained items among the negatives: their content must not place them everywhere.
        weight = torch.from_numpy(np.maximum(data.counts, 0.5).astype(np.float64)) ** config.negative_power
        weight[:FIRST_ITEM] = 0
        self.negative_probability = (weight / weight.sum()).float()
        self.weights: list[Tensor] = list(network.parameters())
        distributed.broadcast_weights(self.weights)
        self.average = [weight.detach().clone() for weight in self.weights]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(network, config),
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.report = TrainingReport()
        self.tokens_per_epoch = int((data.stops - data.timeline.user_start[:-1]).sum())
        self.phase, self.epoch, self.tokens, self.resumed_seconds = "stable", 0, 0, 0.0
        self.decay_start_tokens, self.best_metric, self.best_average = 0, -math.inf, self.average
        self.validated_tokens, self.validations_without_improvement = 0, 0
        self.step_seconds, self.best_tokens = 0.0, 0
        self.generator = torch.Generator()  # all processes draw the same negatives and dropped embeddings
        self.rank, self.world_size = distributed.rank_and_world_size()
        self.shared_seconds = 0.0
        self.started = time.perf_counter()

    @property
    def _stops(self) -> np.ndarray:
        return self.data.stops if self.phase == "stable" else self.data.final_stops

    @property
    def _neighbors(self) -> ItemNeighbors | None:
        return self.data.neighbors if self.phase == "stable" else self.data.final_neighbors

    @property
    def seconds(self) -> float:
        """Duration of the training so far, before an interruption included; in a process group that of rank 0."""
        if self.world_size > 1:
            return self.shared_seconds
        return self.resumed_seconds + time.perf_counter() - self.started

    @property
    def progress(self) -> float:
        """Completed share of the schedule: the larger of the shares of the epochs and of the seconds."""
        return max(self._epochs_done / self.config.epochs, self.seconds / self.config.seconds)

    @property
    def is_phase_over(self) -> bool:
        """Whether the events or seconds of the phase are used up."""
        if self.phase == "decay":
            return self.decay_progress >= 1
        if self.config.plan is not None:
            return self.report.steps >= self.config.plan.stable_steps
        return self.progress >= 1 - self.config.decay_fraction

    @property
    def decay_progress(self) -> float:
        """Completed share of the decay."""
        return (self.tokens - self.decay_start_tokens) / self.report.decay_events

    @property
    def _epochs_done(self) -> float:
        return self.tokens / self.tokens_per_epoch

    def run_epoch(self) -> dict[str, float]:
        """Trains for one pass over the training events, or until the phase is over; returns the epoch's metrics."""
        self.epoch += 1
        self.network.train()
        if self._neighbors is not None:
            self.network.item_neighbors = self._neighbors
        torch.manual_seed(self.config.seed * 100_003 + self.epoch)
        self.generator.manual_seed(self.config.seed * 100_003 + self.epoch)
        rng = np.random.default_rng([self.config.seed, self.epoch])
        loss_sum, targets, started = 0.0, 0, self.seconds
        with tqdm(
            total=self.tokens_per_epoch,
            desc=f"epoch {self.epoch}",
            unit="tok",
            unit_scale=True,
            mininterval=5,
            file=sys.stdout,
            disable=self.rank > 0,
        ) as bar:
            for span in self._spans(rng):
                loss, count = self._step(span)
                loss_sum, targets = loss_sum + loss, targets + count
                self.report.steps += 1
                length = int((span[1] - span[0]).sum())
                self.tokens += length
                bar.update(length)
                bar.set_postfix(loss=f"{loss_sum / max(targets, 1):.3f}", refresh=False)
        self.network.eval()
        self.step_seconds += self.seconds - started
        return {"loss": loss_sum / max(targets, 1), "seconds": self.seconds}

    def _spans(self, rng: np.random.Generator) -> Iterator[Spans]:
        timeline, config = self.data.timeline, self.config
        probability = self.data.recency_weights if self.phase == "decay" else self.data.replay_weights
        for span in epoch_windows(timeline, self._stops, config.window_size, config.batch_tokens, rng, probability):
            yield span
            if self.is_phase_over:  # not before the first step: an epoch without one could not be reproduced
                return

    @property
    def is_validation_due(self) -> bool:
        """Whether to validate: in the stable phase, after enough events since the last validation."""
        interval = self.tokens - self.validated_tokens
        return self.phase == "stable" and interval >= self.config.validation_interval_events

    def validate(self, validate: Callable[[Recommender], float]) -> float:
        """Validation metric of the averaged weights; remembers the best average."""
        metric = self.evaluate_average(validate)
        self.validated_tokens = self.tokens
        self.validations_without_improvement += 1
        if metric > self.best_metric:
            self.best_metric, self.report.best_epoch = metric, self.epoch
            self.validations_without_improvement, self.best_tokens = 0, self.tokens
            self.best_average = [weight.clone() for weight in self.average]
        return metric

    def evaluate_average(self, evaluate: Callable[[Recommender], _Result]) -> _Result:
        """The result of `evaluate` on the network with its averaged weights."""
        self._swap_average()
        try:
            return evaluate(self.network)
        finally:
            self._swap_average()

    def advance_phase(self) -> bool:
        """Enters the next phase if the current one is over; returns whether the decay starts."""
        if self.phase == "decay":
            self.phase = "done" if self.is_phase_over else "decay"
            return False
        out_of_patience = self.validations_without_improvement >= self.config.patience
        if out_of_patience:
            self.return_to_best()
        if out_of_patience or self.is_phase_over:
            self.report.stopped_by = "patience" if out_of_patience else self._limit_reached()
            self.phase = "decay"
        return self.phase == "decay"

    def return_to_best(self) -> None:
        """Replaces the weights and their average by the best average."""
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.best_average)
            torch._foreach_copy_(self.average, self.best_average)

    def _limit_reached(self) -> str:
        if self.config.plan is not None:
            return "plan"
        out_of_time = self.seconds / self.config.seconds >= 1 - self.config.decay_fraction
        return "seconds" if out_of_time else "epochs"

    def start_decay(self) -> None:
        """Sets the length of the decay: a fraction of the events that its initial weights were trained on, or as many
        as the remaining seconds allow. The evaluations between the phases do not shorten it."""
        self.decay_start_tokens, self.report.stable_steps = self.tokens, self.report.steps
        trained_tokens = self.best_tokens if self.report.stopped_by == "patience" else self.tokens
        wanted = self.config.decay_fraction / (1 - self.config.decay_fraction) * trained_tokens
        remaining = max(self.config.seconds - self.seconds, self.config.decay_fraction * self.config.seconds)
        affordable = remaining * self.tokens / max(self.step_seconds, 1e-9)
        plan = self.config.plan
        self.report.decay_events = max(int(min(wanted, affordable)) if plan is None else plan.decay_events, 1)

    def finish(self) -> None:
        """Gives the network its averaged weights, and completes the report."""
        self._swap_average()
        self.network.eval()
        self.report.seconds = self.seconds
        self.report.tokens_per_second = self.tokens / max(self.seconds, 1e-9)

    def save_checkpoint(self, file: StoredFile | None) -> None:
        """Writes the training state; rank 0 only."""
        if file is None or self.rank:
            return
        state = {
            "config": self._configuration(),
            "network": self.network.state_dict(),
            "average": self.average,
            "best_average": self.best_average,
            "optimizer": self.optimizer.state_dict(),
            "report": asdict(self.report),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "seconds": self.seconds,
        }
        content = io.BytesIO()
        torch.save(state, content)
        file.write(content.getvalue())

    def load_checkpoint(self, file: StoredFile | None) -> None:
        """Resumes from a checkpoint of a training with the same configuration, if there is one."""
        if file is None or not file.exists():
            return
        state: dict[str, Any] = torch.load(io.BytesIO(file.read()), weights_only=True, map_location=self.device)
        if not self._is_same_configuration(state["config"]):
            log.warning("Checkpoint %s has another configuration; training starts from the beginning", file)
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.best_average = state["average"], state["best_average"]
        self.report = TrainingReport(**state["report"])
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.resumed_seconds = self.shared_seconds = state["seconds"]
        log.info("Resuming an interrupted training after epoch %d", self.epoch)

    def _configuration(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the training that resumes from it."""
        return {"training": asdict(self.config), "network": asdict(self.network.config)}

    def _is_same_configuration(self, other: dict[str, Any]) -> bool:
        """Whether a checkpoint's configuration is that of this training; fields that it lacks had their defaults."""
        defaults = {"training": asdict(TrainingConfig()), "network": asdict(NetworkConfig(num_items=0))}
        return {part: defaults[part] | other[part] for part in defaults} == self._configuration()

    def _swap_average(self) -> None:
        """Exchanges the weights and their average."""
        for weight, average in zip(self.weights, self.average, strict=True):
            weight.data, average.data = average.data, weight.data

    def _step(self, span: Spans) -> tuple[float, int]:
        """One optimizer step; the sum of the loss and the weight of its targets."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self._learning_rate_factor()
        self.network.items.drop_embeddings(self.generator)
        try:
            loss, count = self._backward(span)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise OutOfMemory(
                    f"No memory for a batch of {self.config.batch_tokens} events in windows of "
                    f"{self.config.window_size}; reduce the number of items (raise RECSYS_MIN_ITEM_EVENTS) or the size "
                    "of the network (lower RECSYS_TRAINING_SECONDS)"
                ) from error
            raise
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, _AVERAGING / (self.report.steps + _AVERAGING))
        return loss, count

    def _backward(self, span: Spans) -> tuple[float, int]:
        """Computes gradients of a batch's mean loss; the loss's sum and the targets' weight over all processes."""
        start, stop = (edge[self.rank :: self.world_size] for edge in span)
        if len(start):
            config, neighbors = self.network.config, self._neighbors
            batch = window_batch(self.data.timeline, start, stop, config.history, neighbors, config.neighbor_tokens)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                next_item, targets = self.network.loss(to_device(batch, self.device), self._sample_negatives())
        else:
            next_item = self.network.items.bias.sum() * 0
            targets = torch.zeros((), device=self.device)
        seconds = self.resumed_seconds + time.perf_counter() - self.started if self.rank == 0 else 0.0
        loss, count, self.shared_seconds = distributed.all_reduce_sums(next_item.item(), float(targets), seconds)
        if not math.isfinite(loss):
            raise InvariantError(
                f"The loss is {loss} at step {self.report.steps}, in windows from events {span[0].tolist()[:8]} "
                "on; train from scratch, or with another RECSYS_SEED"
            )
        self.optimizer.zero_grad(set_to_none=True)
        (next_item / max(count, 1)).backward()
        distributed.all_reduce_gradients(self.weights)
        return loss, int(count)

    def _sample_negatives(self) -> NegativeSample | None:
        count = self.config.num_negatives
        if not count:
            return None
        drawn = torch.multinomial(self.negative_probability, count, replacement=True, generator=self.generator)
        log_expected = torch.log(count * self.negative_probability[drawn])
        return NegativeSample(drawn.to(self.device), log_expected.to(self.device))

    def _learning_rate_factor(self) -> float:
        """Factor of the configured learning rate, 0 to 1: warm-up, constant, or 1 - √ decay."""
        if self.phase == "decay":
            return 1 - math.sqrt(min(self.decay_progress, 1.0))
        share, steps = _WARM_UP
        return min(1.0, max((self._epochs_done / self.config.epochs + 1e-3) / share, (self.report.steps + 1) / steps))


_COUNTERS = (
    "phase",
    "epoch",
    "tokens",
    "decay_start_tokens",
    "best_metric",
    "validated_tokens",
    "validations_without_improvement",
    "step_seconds",
    "best_tokens",
)


def to_device(part: Any, device: torch.device) -> Any:
    """A batch of nested tuples of tensors, on a device."""
    if part is None or isinstance(part, Tensor):
        return part if part is None else part.to(device)
    return type(part)(*(to_device(inner, device) for inner in part))
