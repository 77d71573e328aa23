import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys_tasks.engine.bundle import DECODER, MODEL, NETWORK, SCAN, Bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.ranking import Wishes
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.errors import InvariantError
from recsys_tasks.features.sequences import QUERY_WORDS
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import TrainedModel, load_model, save_model
from recsys_tasks.model.training_loop import build_network
from recsys_tasks.names import VIEW
from recsys_tasks.promotion.build import copy_model
from tests.shops import small_config, vocabulary


def test_a_model_with_neighbours_is_served_and_read_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = vocabulary()
    nearest = np.roll(np.tile(np.arange(len(words)), (2, 1)), 1, 1).T.copy()
    network = build_network(small_config(words, neighbours=2), words, nearest).eval()
    alone = build_network(small_config(words, neighbours=2), words).eval()
    alone.load_state_dict({**network.state_dict(), "items.neighbours": alone.items.neighbours})
    assert not torch.allclose(network.items.matrix(), alone.items.matrix())
    save_model(TrainedModel(network, words), tmp_path)
    export_graphs(network, tmp_path)
    assert verify_graphs(network, tmp_path) < 1e-4
    assert torch.equal(load_model(tmp_path).network.items.matrix(), network.items.matrix())


@pytest.mark.parametrize("repeat", [False, True])
def test_lists_are_those_of_vectors_that_are_not_rounded(tmp_path: Path, repeat: bool) -> None:
    torch.manual_seed(0)
    words = vocabulary(4_000)
    network = build_network(small_config(words, query_words=QUERY_WORDS, sessions_repeat=repeat), words)
    save_model(TrainedModel(network, words), tmp_path)
    export_graphs(network, tmp_path)
    engine = Engine(Bundle.of_model(tmp_path, words))
    for number in range(40):
        session = [Action(f"i{(7 * number + step) % 4_000}", VIEW, 100.0 + step) for step in range(1 + number % 7)]
        found = engine.recommend(None, [], session, 100.0, Wishes(20)).items
        exact = engine._likely(None, [], session, 100.0).scores.best(1, also=np.arange(len(words)))
        shares = np.zeros(len(words))
        np.maximum.at(shares, exact.numbers, exact.scores)
        assert [item.item_id for item in found] == [words.item_id(n) for n in np.argsort(-shares)[:20].tolist()]
        assert shares.sum() == pytest.approx(1.0, abs=0.01)


def test_a_scan_of_other_vectors_is_found_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = vocabulary()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        network = build_network(small_config(words), words).eval()
        export_graphs(network, tmp_path / name)
    shutil.copy(tmp_path / "one" / SCAN, tmp_path / "two" / SCAN)
    with pytest.raises(InvariantError, match="all items"):
        verify_graphs(network, tmp_path / "two")


def test_a_model_of_before_that_left_no_vectors_can_be_served(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = vocabulary()
    network = build_network(small_config(words, query_words=QUERY_WORDS), words).eval()
    files, building = tmp_path / "files", tmp_path / "building"
    save_model(TrainedModel(network, words), files)
    building.mkdir()
    copy_model(files, building)
    assert {path.name for path in building.iterdir()} == set(MODEL)
    assert verify_graphs(network, building) < 1e-4


@pytest.mark.parametrize("other", [SCAN, NETWORK])
def test_a_model_whose_graphs_are_of_before_is_exported_anew(tmp_path: Path, other: str) -> None:
    torch.manual_seed(0)
    words = vocabulary()
    network = build_network(small_config(words), words).eval()
    files, building = tmp_path / "files", tmp_path / "building"
    save_model(TrainedModel(network, words), files)
    export_graphs(network, files)
    shutil.copy(files / other, files / DECODER)  # one that keeps nothing of a session, or none at all
    building.mkdir()
    copy_model(files, building)
    assert verify_graphs(network, building) < 1e-4


@pytest.mark.parametrize("query_words", [0, QUERY_WORDS])
@pytest.mark.parametrize("repeat", [False, True])
def test_the_graphs_answer_with_and_without_searches(tmp_path: Path, query_words: int, repeat: bool) -> None:
    torch.manual_seed(0)
    words = vocabulary()
    network = build_network(small_config(words, query_words=query_words, sessions_repeat=repeat), words)
    save_model(TrainedModel(network, words), tmp_path)
    export_graphs(network, tmp_path)
    assert verify_graphs(network, tmp_path) < 1e-4
    engine = Engine(Bundle.of_model(tmp_path, words))
    session = [Action("i3", VIEW, 100.0)]
    search = Action("", "search", 101.0, query="blue item")
    plain, searched, alone = (
        engine.recommend(None, [], actions, 100.0, Wishes(5)).items
        for actions in (session, [*session, search], [search])
    )
    assert {item.source for item in plain + searched} == {"model"}
    assert {item.source for item in alone} == {"model" if query_words else "popular"}
