from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys_tasks.errors import ConfigurationError, InvariantError, OutOfMemory
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import build_timeline
from recsys_tasks.model.distributed import training_device
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import ComponentWeights
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData, TrainingReport, build_network, train
from recsys_tasks.model.windows import replay_weights
from recsys_tasks.settings import settings
from recsys_tasks.storage.folder import Folder, StoredFile
from recsys_tasks.training import recipe
from tests.shops import encoded_shop, small_config, training_data

CONFIG = TrainingConfig(epochs=5, num_negatives=32, seconds=600)


class TrainingKilled(Exception):
    pass


def _train(
    config: TrainingConfig,
    data: TrainingData | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, figures: None,
    checkpoint: StoredFile | None = None,
    **sizes: Any,
) -> tuple[Recommender, TrainingReport]:
    torch.manual_seed(0)
    shop = encoded_shop(users=20)
    network = build_network(small_config(shop.vocabulary, dropout=0.2, **sizes), shop.vocabulary)
    return network, train(network, data or training_data(shop), config, lambda _: 0.0, on_epoch, checkpoint)


def _trained(data: TrainingData, checkpoint: StoredFile | None = None, kill_after: int | None = None) -> Recommender:
    def on_epoch(epoch: int, figures: dict[str, float]) -> None:
        if epoch == kill_after:
            raise TrainingKilled

    return _train(CONFIG, data, on_epoch, checkpoint)[0]


def _same_weights(one: Recommender, other: Recommender) -> bool:
    other_weights = other.state_dict()
    return all(torch.equal(value, other_weights[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("epoch", [2, 3, 5])
def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path: Path, epoch: int) -> None:
    data, checkpoint = training_data(encoded_shop(users=20)), Folder.of(tmp_path).file("state.pt")
    with pytest.raises(TrainingKilled):
        _trained(data, checkpoint, kill_after=epoch)
    assert checkpoint.exists()
    assert _same_weights(_trained(data, checkpoint), _trained(data))


def test_a_slow_evaluation_between_the_phases_leaves_the_decay_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.0

    def clock() -> float:
        nonlocal seconds
        seconds += 1  # at each reading
        return seconds

    def choose_weights(network: Recommender) -> ComponentWeights:
        nonlocal seconds
        seconds += 1_000
        return ComponentWeights()

    monkeypatch.setattr("recsys_tasks.model.training_loop.time.perf_counter", clock)
    words = encoded_shop(users=20).vocabulary
    config = replace(CONFIG, epochs=10_000, patience=10_000, seconds=100, decay_fraction=0.25)
    network, data = build_network(small_config(words), words), training_data(encoded_shop(users=20))
    report = train(network, data, config, lambda _: 0.0, choose_weights=choose_weights)
    assert report.steps - report.stable_steps > report.stable_steps / 4


def test_a_training_limited_by_time_is_reproduced_from_its_plan() -> None:
    limited = replace(CONFIG, epochs=10_000, patience=10_000, seconds=1.0)
    network, report = _train(limited)
    assert report.stopped_by == "seconds"
    reproduced, reproduced_report = _train(replace(limited, plan=report.plan, seconds=1e9))
    assert reproduced_report.stopped_by == "plan"
    assert reproduced_report.plan == report.plan
    assert [epoch["loss"] for epoch in reproduced_report.epochs] == [epoch["loss"] for epoch in report.epochs]
    assert _same_weights(network, reproduced)


def test_a_training_whose_time_runs_out_between_two_epochs_is_reproduced(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.0
    monkeypatch.setattr("recsys_tasks.model.training_loop.time.perf_counter", lambda: seconds)

    def on_epoch(epoch: int, figures: dict[str, float]) -> None:
        nonlocal seconds
        if epoch == 2:
            seconds = 90.0

    limited = replace(CONFIG, epochs=10_000, patience=10_000, seconds=100.0)
    network, report = _train(limited, on_epoch=on_epoch)
    assert report.stopped_by == "seconds"
    assert all(epoch["loss"] > 0 for epoch in report.epochs)
    reproduced, reproduced_report = _train(replace(limited, plan=report.plan))
    assert [epoch["loss"] for epoch in reproduced_report.epochs] == [epoch["loss"] for epoch in report.epochs]
    assert _same_weights(network, reproduced)


def _altered_checkpoint(folder: Path, data: TrainingData, alter: Callable[[dict[str, Any]], None]) -> StoredFile:
    """A checkpoint of an interrupted training, whose configuration was altered since."""
    path = folder / "state.pt"
    checkpoint = Folder.of(folder).file(path.name)
    with pytest.raises(TrainingKilled):
        _trained(data, checkpoint, kill_after=2)
    state = torch.load(path, weights_only=True)
    alter(state["config"])
    torch.save(state, path)
    return checkpoint


def test_a_checkpoint_with_another_configuration_is_ignored(tmp_path: Path) -> None:
    data = training_data(encoded_shop(users=20))
    checkpoint = _altered_checkpoint(tmp_path, data, lambda config: config["training"].update(learning_rate=1.0))
    assert _same_weights(_trained(data, checkpoint), _trained(data))


def test_a_checkpoint_from_before_a_new_option_resumes(tmp_path: Path) -> None:
    def without_options(config: dict[str, Any]) -> None:
        del config["training"]["precision"], config["network"]["vector_spaces"]

    data = training_data(encoded_shop(users=20))
    checkpoint = _altered_checkpoint(tmp_path, data, without_options)
    epochs: list[int] = []
    _train(CONFIG, data, lambda epoch, figures: epochs.append(epoch), checkpoint)
    assert epochs[0] > 1


def _altered(shop: EncodedSnapshot, first_part: int) -> EncodedSnapshot:
    """The shop with other items, event types and times in the sessions from a part of the split on."""
    timeline = shop.timeline
    later = shop.split[timeline.session] >= first_part
    item, kind, seconds = timeline.item.copy(), timeline.kind.copy(), timeline.seconds.copy()
    item[later] = 2 + (item[later] * 7 + 3) % 40
    kind[later] = 2
    seconds[later] += 1e5
    session_seconds = np.where(later, timeline.session_seconds + 1e5, timeline.session_seconds)
    altered = build_timeline(timeline.user, timeline.session, item, kind, seconds, session_seconds)
    return EncodedSnapshot(altered, shop.vocabulary, shop.user_ids, shop.split)


def test_events_after_the_cutoff_do_not_change_the_weights() -> None:
    shop = encoded_shop(users=20)
    weights = _trained(training_data(shop))
    assert _same_weights(weights, _trained(training_data(_altered(shop, first_part=2))))
    # The same alteration before the cutoff changes the weights: the comparison can fail.
    assert not _same_weights(weights, _trained(training_data(_altered(shop, first_part=1))))


def test_a_training_on_events_after_the_cutoff_is_detected() -> None:
    shop = encoded_shop(users=20)
    leaky = [training_data(each) for each in (shop, _altered(shop, first_part=2))]
    leaky = [data._replace(final_stops=data.timeline.user_start[1:]) for data in leaky]
    assert not _same_weights(_trained(leaky[0]), _trained(leaky[1]))


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_batch() -> None:
    words = encoded_shop(users=20).vocabulary
    network = build_network(small_config(words), words)
    with torch.no_grad():
        network.start_token.fill_(float("nan"))
    with pytest.raises(InvariantError, match=r"loss is nan at step 0, in windows from events \[\d+"):
        train(network, training_data(encoded_shop(users=20)), CONFIG, lambda _: 0.0)


def test_out_of_memory_names_the_settings_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    words = encoded_shop(users=20).vocabulary
    network = build_network(small_config(words), words)

    def refuse(*_: object) -> None:
        torch.empty(1 << 50)

    monkeypatch.setattr(network, "loss", refuse)
    with pytest.raises(OutOfMemory, match=r"No memory for a batch of .*RECSYS_MIN_ITEM_EVENTS"):
        train(network, training_data(encoded_shop(users=20)), CONFIG, lambda _: 0.0)


def test_validation_that_stops_improving_starts_the_decay() -> None:
    words = encoded_shop(users=20).vocabulary
    network = build_network(small_config(words), words)
    config = TrainingConfig(epochs=50, num_negatives=32, patience=2)
    measures = iter([0.1, 0.3, 0.2, 0.2, *[0.9] * 50])
    report = train(network, training_data(encoded_shop(users=20)), config, lambda _: next(measures))
    assert report.stopped_by == "patience"
    assert report.best_epoch == 2
    assert sum("validation" in figures for figures in report.epochs) == 4
    assert len(report.epochs) < 10


def test_a_warm_start_weights_new_events_by_one_and_old_events_by_the_same_total() -> None:
    timeline = training_data(encoded_shop()).timeline
    stops, starts = timeline.user_start[1:], timeline.user_start[:-1]
    since = float(np.quantile(timeline.seconds, 0.75))
    weights = replay_weights(timeline.seconds, since, stops, starts)
    assert weights is not None
    later = timeline.seconds >= since
    assert (weights[later] == 1).all()
    assert weights[~later].sum() == pytest.approx(later.sum())
    assert replay_weights(timeline.seconds, float(timeline.seconds.max()) + 1, stops, starts) is None
    everything = replay_weights(timeline.seconds, 0.0, stops, starts)
    assert everything is not None
    assert (everything == 1).all()


_COMPONENTS = [
    {},
    {"neighbor_tokens": 4, "sessions_repeat": True, "vector_spaces": {"image": 4, "sound": 8}},
    {"copying": False, "history": False},
]


@pytest.mark.parametrize("sizes", _COMPONENTS, ids=["usual", "more", "fewer"])
@pytest.mark.parametrize("num_negatives", [0, 32])
def test_each_tensor_of_a_step_names_its_device(num_negatives: int, sizes: dict[str, Any]) -> None:
    """A tensor that a step makes without a device would be on the default one, which cannot compute with the others."""
    config = replace(CONFIG, epochs=2, num_negatives=num_negatives)
    data = recipe.with_item_neighbors(training_data(encoded_shop(users=20)))
    usual, usual_report = _train(config, data, **sizes)
    shop = encoded_shop(users=20)
    torch.manual_seed(0)
    network = build_network(small_config(shop.vocabulary, dropout=0.2, **sizes), shop.vocabulary)
    with torch.device("meta"):
        report = train(network, data, config, lambda _: 0.0)
    assert [epoch["loss"] for epoch in report.epochs] == [epoch["loss"] for epoch in usual_report.epochs]
    assert _same_weights(network, usual)


@pytest.mark.parametrize("sizes", _COMPONENTS, ids=["usual", "more", "fewer"])
@pytest.mark.parametrize("num_negatives", [0, 32])
def test_bfloat16_products_train_float32_weights_as_well(num_negatives: int, sizes: dict[str, Any]) -> None:
    config, data = replace(CONFIG, num_negatives=num_negatives), training_data(encoded_shop(users=20))
    data = recipe.with_item_neighbors(data)
    exact, exact_report = _train(config, data, **sizes)
    network, report = _train(replace(config, precision="bfloat16"), data, **sizes)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert not _same_weights(network, exact)
    assert report.epochs[-1]["loss"] == pytest.approx(exact_report.epochs[-1]["loss"], rel=0.02)


@pytest.fixture
def choose_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], torch.device]]:
    """The device of a training with a value of `RECSYS_TRAINING_DEVICE`."""

    def chosen(value: str) -> torch.device:
        monkeypatch.setenv("RECSYS_TRAINING_DEVICE", value)
        settings.cache_clear()
        return training_device()

    yield chosen
    monkeypatch.undo()
    settings.cache_clear()


def test_a_device_that_is_not_there_is_named(
    choose_device: Callable[[str], torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigurationError, match="RECSYS_TRAINING_DEVICE=cuda, but PyTorch finds no GPU"):
        choose_device("cuda")


def test_each_process_has_a_gpu_of_its_own_unless_the_cpu_is_asked_for(
    choose_device: Callable[[str], torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
