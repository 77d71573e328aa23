from pathlib import Path

import pytest
import torch

from recsys_tasks.features.sequences import QUERY_WORDS
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.training import build_network
from recsys_tasks.names import VIEW
from recsys_tasks.serving.bundle import Bundle, Histories
from recsys_tasks.serving.engine import Action, Engine
from tests.shops import small_config, vocabulary


@pytest.mark.parametrize("query_words", [0, QUERY_WORDS])
@pytest.mark.parametrize("repeat", [False, True])
def test_the_graphs_answer_with_and_without_searches(tmp_path: Path, query_words: int, repeat: bool) -> None:
    torch.manual_seed(0)
    words = vocabulary()
    network = build_network(small_config(words, query_words=query_words, sessions_repeat=repeat), words)
    save_model(TrainedModel(network, words), tmp_path)
    export_graphs(network, tmp_path)
    assert verify_graphs(network, tmp_path) < 1e-4
    histories = Histories.of_nobody(words.all_counts())
    engine = Engine(Bundle(tmp_path, {}, "", words, histories, []))
    session = [Action("i3", VIEW, 100.0)]
    search = Action("", "search", 101.0, query="blue item")
    plain, searched, alone = (
        engine.recommend(None, [], actions, 100.0, 5) for actions in (session, [*session, search], [search])
    )
    assert {item.source for item in plain + searched} == {"model"}
    assert {item.source for item in alone} == {"model" if query_words else "popular"}
