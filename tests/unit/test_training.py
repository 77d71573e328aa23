from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys_tasks.errors import InvariantError, OutOfMemory
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import build_timeline
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData, TrainingReport, build_network, train
from recsys_tasks.model.windows import news
from tests.shops import encoded_shop, small_config, training_data

CONFIG = TrainingConfig(epochs=5, negatives=32, seconds=600)


class Killed(Exception):
    pass


def _trained(data: TrainingData, checkpoint: Path | None = None, die_after: int | None = None) -> Recommender:
    def on_epoch(epoch: int, figures: dict[str, float]) -> None:
        if epoch == die_after:
            raise Killed

    torch.manual_seed(0)
    words = encoded_shop(users=20).vocabulary
    network = build_network(small_config(words, dropout=0.2), words)
    train(network, data, CONFIG, lambda _: 0.0, on_epoch, checkpoint)
    return network


def _same(one: Recommender, other: Recommender) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("epoch", [2, 3, 5])
def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path, epoch: int) -> None:
    data, checkpoint = training_data(encoded_shop(users=20)), tmp_path / "state.pt"
    with pytest.raises(Killed):
        _trained(data, checkpoint, die_after=epoch)
    assert checkpoint.exists()
    assert _same(_trained(data, checkpoint), _trained(data))
    assert not checkpoint.exists()


def test_a_training_that_the_clock_ended_can_be_done_again() -> None:
    data, words = training_data(encoded_shop(users=20)), encoded_shop(users=20).vocabulary
    hurried = replace(CONFIG, epochs=10_000, patience=10_000, seconds=1.0)

    def trained(config: TrainingConfig) -> tuple[Recommender, TrainingReport]:
        torch.manual_seed(0)
        network = build_network(small_config(words, dropout=0.2), words)
        return network, train(network, data, config, lambda _: 0.0)

    network, report = trained(hurried)
    assert report.stopped_by == "seconds"
    again, same = trained(replace(hurried, plan=report.plan, seconds=1e9))
    assert same.stopped_by == "plan"
    assert same.plan == report.plan
    assert [epoch["loss"] for epoch in same.epochs] == [epoch["loss"] for epoch in report.epochs]
    assert _same(network, again)


def test_the_state_of_a_training_with_other_settings_is_not_taken_up(tmp_path: Path) -> None:
    data, checkpoint = training_data(encoded_shop(users=20)), tmp_path / "state.pt"
    with pytest.raises(Killed):
        _trained(data, checkpoint, die_after=2)
    state = torch.load(checkpoint, weights_only=True)
    state["config"]["rate"] = 1.0
    torch.save(state, checkpoint)
    assert _same(_trained(data, checkpoint), _trained(data))


def _replanted(shop: EncodedSnapshot, first_part: int) -> EncodedSnapshot:
    """The shop with other items, kinds and times in all sessions of a part or a later one."""
    timeline = shop.timeline
    later = shop.split[timeline.session] >= first_part
    item, kind, seconds = timeline.item.copy(), timeline.kind.copy(), timeline.seconds.copy()
    item[later] = 2 + (item[later] * 7 + 3) % 40
    kind[later] = 2
    seconds[later] += 1e5
    began = np.where(later, timeline.session_seconds + 1e5, timeline.session_seconds)
    planted = build_timeline(timeline.user, timeline.session, item, kind, seconds, began)
    return EncodedSnapshot(planted, shop.vocabulary, shop.user_ids, shop.split)


def test_nothing_from_after_the_cut_reaches_the_weights() -> None:
    shop = encoded_shop(users=20)
    weights = _trained(training_data(shop))
    assert _same(weights, _trained(training_data(_replanted(shop, first_part=2))))
    # The same change before the cut is noticed, so the comparison can fail.
    assert not _same(weights, _trained(training_data(_replanted(shop, first_part=1))))


def test_a_training_that_reads_over_the_cut_is_caught() -> None:
    shop = encoded_shop(users=20)
    leaky = [training_data(each) for each in (shop, _replanted(shop, first_part=2))]
    leaky = [data._replace(final_stops=data.timeline.user_start[1:]) for data in leaky]
    assert not _same(_trained(leaky[0]), _trained(leaky[1]))


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_batch() -> None:
    words = encoded_shop(users=20).vocabulary
    network = build_network(small_config(words), words)
    with torch.no_grad():
        network.begin.fill_(float("nan"))
    with pytest.raises(InvariantError, match=r"loss is nan at step 0, in windows from events \[\d+"):
        train(network, training_data(encoded_shop(users=20)), CONFIG, lambda _: 0.0)


def test_too_little_memory_names_the_setting_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    words = encoded_shop(users=20).vocabulary
    network = build_network(small_config(words), words)

    def refuse(*_: object) -> None:
        torch.empty(1 << 50)

    monkeypatch.setattr(network, "loss", refuse)
    with pytest.raises(OutOfMemory, match=r"No memory for a batch of .*RECSYS_MIN_ITEM_EVENTS"):
        train(network, training_data(encoded_shop(users=20)), CONFIG, lambda _: 0.0)


def test_validation_that_stops_improving_begins_the_decay() -> None:
    words = encoded_shop(users=20).vocabulary
    network = build_network(small_config(words), words)
    config = TrainingConfig(epochs=50, negatives=32, patience=2)
    measures = iter([0.1, 0.3, 0.2, 0.2, *[0.9] * 50])
    report = train(network, training_data(encoded_shop(users=20)), config, lambda _: next(measures))
    assert report.stopped_by == "patience"
    assert report.best_epoch == 2
    assert sum("validation" in figures for figures in report.epochs) == 4
    assert len(report.epochs) < 10


def test_a_training_that_goes_on_reads_what_is_new_and_as_much_of_the_old() -> None:
    timeline = training_data(encoded_shop()).timeline
    stops, starts = timeline.user_start[1:], timeline.user_start[:-1]
    since = float(np.quantile(timeline.seconds, 0.75))
    chance = news(timeline.seconds, since, stops, starts)
    assert chance is not None
    later = timeline.seconds >= since
    assert (chance[later] == 1).all()
    assert chance[~later].sum() == pytest.approx(later.sum())
    assert news(timeline.seconds, float(timeline.seconds.max()) + 1, stops, starts) is None
    everything = news(timeline.seconds, 0.0, stops, starts)
    assert everything is not None
    assert (everything == 1).all()
