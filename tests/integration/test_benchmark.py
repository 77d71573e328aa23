import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_tasks.cli import main
from recsys_tasks.names import BASELINES, ITEM_KNN, POPULARITY

ITEMS = 30


def _chains(count: int, seed: int) -> pd.DataFrame:
    """Sequences in which each item is followed by the next number, with a few exceptions."""
    random = np.random.default_rng(seed)
    rows = []
    for sequence in range(count):
        item = int(random.integers(ITEMS))
        for position in range(int(random.integers(3, 8))):
            rows.append((sequence, position, item))
            item = (item + 1) % ITEMS if random.random() < 0.9 else int(random.integers(ITEMS))
    return pd.DataFrame(rows, columns=["sequence_id", "position", "item_id"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sequences")
    _chains(600, seed=1).to_parquet(folder / "train.parquet")
    _chains(100, seed=2).to_parquet(folder / "test.parquet")
    pd.DataFrame({"item_id": range(ITEMS), "title": [f"thing {n % 3}" for n in range(ITEMS)]}).to_parquet(
        folder / "items.parquet"
    )
    return folder


def _run(files: Path, out: Path, *more: str) -> int:
    given = ["--train", str(files / "train.parquet"), "--test", str(files / "test.parquet"), "--json", str(out)]
    return main(["benchmark", *given, *more])


def test_a_network_learns_transitions(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert _run(files, out, "--items", str(files / "items.parquet"), "--minutes", "0.25") == 0
    found = json.loads(out.read_text())
    assert _run(files, tmp_path / "popular.json", "--model", POPULARITY) == 0
    assert found["mrr_5"] > 2 * json.loads((tmp_path / "popular.json").read_text())["mrr_5"]
    assert found["items"] == ITEMS
    assert found["sequences"] == 100
    assert found["epochs"] > 0
    assert found["parameters"] > 0
    assert found["train_seconds"] > 0
    for measure in ("recall", "ndcg", "mrr", "precision", "f1"):
        assert found[f"{measure}_5"] >= 0
        assert {f"{measure}_10", f"{measure}_20"} <= set(found)


@pytest.mark.parametrize("model", BASELINES)
def test_each_baseline_ranks_the_same_tasks(files: Path, tmp_path: Path, model: str) -> None:
    assert _run(files, tmp_path / "out.json", "--model", model) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["sequences"] == 100
    assert 0 < found["recall_20"] <= 1


def test_item_knn_beats_popularity_on_transitions(files: Path, tmp_path: Path) -> None:
    found = {}
    for model in (POPULARITY, ITEM_KNN):
        assert _run(files, tmp_path / f"{model}.json", "--model", model) == 0
        found[model] = json.loads((tmp_path / f"{model}.json").read_text())["recall_5"]
    assert found[ITEM_KNN] > 2 * found[POPULARITY]


def test_a_target_outside_the_vocabulary_counts_as_missed(files: Path, tmp_path: Path) -> None:
    test = pd.read_parquet(files / "test.parquet")
    last = test.groupby("sequence_id").tail(1).index
    test.loc[last, "item_id"] = 10_000
    test.to_parquet(tmp_path / "test.parquet")
    arguments = ["--train", str(files / "train.parquet"), "--test", str(tmp_path / "test.parquet")]
    assert main(["benchmark", *arguments, "--json", str(tmp_path / "o.json"), "--model", ITEM_KNN]) == 0
    assert json.loads((tmp_path / "o.json").read_text())["recall_20"] == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: table.drop(columns="position"), "no column position"),
        (lambda table: table.iloc[:0], "is empty"),
        (lambda table: table.iloc[::-1], "not in the order"),
        (lambda table: table.assign(item_id=[None, *table["item_id"][1:]]), "item_id is missing in 1 rows"),
        (lambda table: table.assign(event_type="stare"), "event_type stare is not one of"),
    ],
)
def test_an_invalid_file_is_rejected_with_the_reason(
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: object,
    reason: str,
) -> None:
    changed = change(pd.read_parquet(files / "train.parquet"))  # type: ignore[operator]
    changed.to_parquet(tmp_path / "train.parquet", index=False)
    arguments = ["--train", str(tmp_path / "train.parquet"), "--test", str(files / "test.parquet")]
    assert main(["benchmark", *arguments, "--json", str(tmp_path / "o.json"), "--model", POPULARITY]) == 1
    assert reason in capsys.readouterr().err
