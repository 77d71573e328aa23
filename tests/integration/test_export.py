import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys_tasks.engine.bundle import DECODER, MODEL_FILE_NAMES, NETWORK, SCAN, Bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.ranking import ListOptions
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.errors import IncompatibleModelFormat, InvariantError
from recsys_tasks.features.sequences import QUERY_WORDS
from recsys_tasks.model.export import verify_graphs
from recsys_tasks.model.files import TrainedModel, load_model, save_model
from recsys_tasks.model.scoring_graph import export_scoring_graph
from recsys_tasks.model.training_loop import build_network
from recsys_tasks.names import VIEW
from recsys_tasks.promotion.build import copy_model
from tests.shops import Exported, export_small_network, small_config, vocabulary


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model without searches, repeated items and neighbors."""
    return export_small_network(tmp_path_factory)


def test_a_model_with_neighbors_is_exported_and_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    words = vocabulary()
    nearest = np.roll(np.tile(np.arange(len(words)), (2, 1)), 1, 1).T.copy()
    network, folder, _ = export_small_network(tmp_path_factory, neighbors=nearest, num_neighbors=2)
    other = build_network(small_config(words, num_neighbors=2), words).eval()
    other.load_state_dict({**network.state_dict(), "items.neighbors": other.items.neighbors})
    assert not torch.allclose(network.items.matrix(), other.items.matrix())
    assert verify_graphs(network, folder) < 1e-4
    assert torch.equal(load_model(folder).network.items.matrix(), network.items.matrix())


@pytest.mark.parametrize("repeat", [False, True])
def test_lists_equal_those_of_unquantized_vectors(tmp_path_factory: pytest.TempPathFactory, repeat: bool) -> None:
    _, folder, words = export_small_network(
        tmp_path_factory, num_items=4_000, query_words=QUERY_WORDS, sessions_repeat=repeat
    )
    engine = Engine(Bundle.from_model(folder, words))
    for number in range(40):
        session = [Action(f"i{(7 * number + step) % 4_000}", VIEW, 100.0 + step) for step in range(1 + number % 7)]
        found = engine.recommend(None, [], session, 100.0, ListOptions(20)).items
        exact = engine._predict(None, [], session, 100.0).scores.top_k(1, include=np.arange(len(words)))
        shares = np.zeros(len(words))
        np.maximum.at(shares, exact.numbers, exact.scores)
        assert [item.item_id for item in found] == [words.item_id(n) for n in np.argsort(-shares)[:20].tolist()]
        assert shares.sum() == pytest.approx(1.0, abs=0.01)


def test_a_scoring_graph_of_other_vectors_is_rejected(tmp_path: Path, plain: Exported) -> None:
    torch.manual_seed(1)
    other = build_network(small_config(plain.vocabulary), plain.vocabulary).eval()
    shutil.copytree(plain.folder, tmp_path / "model")
    with torch.inference_mode():
        matrix, bias = other.items.matrix().numpy(), other.items.bias.numpy()
    export_scoring_graph(matrix, bias, tmp_path / "model" / SCAN)
    with pytest.raises(InvariantError, match="all items"):
        verify_graphs(plain.network, tmp_path / "model")


def test_a_model_without_exported_graphs_is_exported_for_serving(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = vocabulary()
    network = build_network(small_config(words, query_words=QUERY_WORDS), words).eval()
    files, building = tmp_path / "files", tmp_path / "building"
    save_model(TrainedModel(network, words), files)
    building.mkdir()
    copy_model(files, building)
    assert {path.name for path in building.iterdir()} == set(MODEL_FILE_NAMES)
    assert verify_graphs(network, building) < 1e-4


@pytest.mark.parametrize("file", [SCAN, NETWORK])
def test_a_model_with_an_outdated_decoder_is_exported_again(
    tmp_path: Path, plain: Exported, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, building = tmp_path / "files", tmp_path / "building"
    shutil.copytree(plain.folder, files)
    shutil.copy(files / file, files / DECODER)  # a graph without a session state, or no graph at all
    building.mkdir()
    exported_to: list[Path] = []
    monkeypatch.setattr("recsys_tasks.model.export.export_graphs", lambda _, folder: exported_to.append(folder))
    copy_model(files, building)
    assert exported_to == [building]


def test_a_model_of_an_earlier_format_is_rejected(tmp_path: Path) -> None:
    words = vocabulary()
    save_model(TrainedModel(build_network(small_config(words), words), words), tmp_path)
    (tmp_path / NETWORK).write_text(json.dumps({"items": len(words), "width": 16, "query_words": 0}))
    with pytest.raises(IncompatibleModelFormat, match="has format 1; this version of the package reads format 5"):
        load_model(tmp_path)


@pytest.mark.parametrize("query_words", [0, QUERY_WORDS])
@pytest.mark.parametrize("repeat", [False, True])
def test_the_graphs_answer_with_and_without_searches(
    tmp_path_factory: pytest.TempPathFactory, query_words: int, repeat: bool
) -> None:
    sizes: dict[str, Any] = {"query_words": query_words, "sessions_repeat": repeat, "num_decoder_layers": 1 + repeat}
    sizes = sizes if query_words or repeat else {}
    network, folder, words = export_small_network(tmp_path_factory, **sizes)
    assert verify_graphs(network, folder) < 1e-4
    engine = Engine(Bundle.from_model(folder, words))
    session = [Action("i3", VIEW, 100.0)]
    search = Action("", "search", 101.0, query="blue item")
    plain, searched, alone = (
        engine.recommend(None, [], actions, 100.0, ListOptions(5)).items
        for actions in (session, [*session, search], [search])
    )
    assert {item.source for item in plain + searched} == {"model"}
    assert {item.source for item in alone} == {"model" if query_words else "popular"}
