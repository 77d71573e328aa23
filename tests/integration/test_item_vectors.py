"""External item vectors: from files to the warehouse, snapshots, and the content of a trained model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, text

from recsys_tasks.errors import BatchRejected
from recsys_tasks.features.retention import drop_snapshots
from recsys_tasks.features.snapshot import Snapshot, SnapshotParameters, build_snapshot, open_snapshot
from recsys_tasks.features.vector_spaces import prepare_vectors, read_vector_spaces
from recsys_tasks.ingestion.landing import land_batches
from recsys_tasks.ingestion.load import load_batch
from recsys_tasks.ingestion.removal import retract
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.registry.tracking import client
from recsys_tasks.steps import features, ingestion, training
from recsys_tasks.storage.folder import Folder
from recsys_tasks.training.evaluation import load_run_model
from recsys_tasks.validation.batch import validate_batch
from recsys_tasks.warehouse import engine
from tests.conftest import configured_shop
from tests.integration.ingesting import LONG_AGO, count, ingest
from tests.shops import LENIENT_GATE_RULES, fill, vocabulary

PARAMETERS = SnapshotParameters(validation_share=0.1, test_share=0.1, min_item_events=2)
MAPPING = """
source = "images"
kind = "vectors"
format = "jsonl"
on_error = "quarantine"
[columns]
item_id = "sku"
vector = "embedding"
version = "encoder"
[defaults]
space = "image"
"""


def _mapping(folder: Path, content: str = MAPPING) -> str:
    path = folder / "images.toml"
    path.write_text(content, encoding="utf-8")
    return str(path)


def _json_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def _row(number: int, vector: object, encoder: str = "v1") -> dict[str, object]:
    return {"sku": f"i{number}", "embedding": vector, "encoder": encoder}


def _stored(snapshot: Snapshot) -> dict[str, list[float]]:
    table = snapshot.vector_table()
    return {f"{row['item_id']} {row['version']}": row["vector"] for row in table.to_pylist()}


def test_parquet_and_json_lines_give_the_same_vectors(warehouse: Engine, tmp_path: Path) -> None:
    rows = [_row(number, [number + 0.5, -1e-3, 1e-46]) for number in range(3)]
    table = pa.Table.from_pylist(rows).set_column(
        1, "embedding", pa.array([row["embedding"] for row in rows], pa.list_(pa.float32()))
    )
    pq.write_table(table, tmp_path / "a.parquet")
    ingest(warehouse, tmp_path, _mapping(tmp_path), _json_lines(tmp_path / "a.jsonl", rows))
    parquet = MAPPING.replace("jsonl", "parquet").replace('"image"', '"photo"')
    ingest(warehouse, tmp_path, _mapping(tmp_path, parquet), tmp_path / "a.parquet")
    query = "select item_id, vector from item_vectors where space = '{}' order by item_id"
    with warehouse.connect() as connection:
        image, photo = (connection.execute(text(query.format(space))).all() for space in ("image", "photo"))
    assert [row.vector[:2] for row in image] == [pytest.approx([number + 0.5, -1e-3]) for number in range(3)]
    assert image == photo


BAD_ROWS: list[tuple[dict[str, object], str]] = [
    ({"embedding": [1.0, 2.0]}, "item_id_present"),
    (_row(1, None), "vector_is_list_of_numbers"),
    (_row(1, [1.0, None]), "vector_is_list_of_numbers"),
    (_row(1, [[1.0], [2.0]]), "vector_is_list_of_numbers"),
    (_row(1, [1.0, "NaN"]), "vector_is_list_of_numbers"),
    (_row(1, [1.0, 1e300]), "vector_is_list_of_numbers"),
    (_row(1, "a picture"), "vector_is_list_of_numbers"),
    (_row(1, []), "vector_is_list_of_numbers"),
    (_row(1, [0, 0.0]), "vector_is_not_zero"),
    (_row(1, [1.0] * 5_000), "vector_is_short"),
    (_row(1, [1.0, 2.0, 3.0]), "vector_has_dimension_of_space"),
    (_row(1, [1.0, 2.0], "v 1"), "version_is_name"),
]


def test_bad_vectors_are_quarantined_with_their_reasons(warehouse: Engine, tmp_path: Path) -> None:
    good = [_row(number, [1.0, number]) for number in range(2, 22)]
    path = _json_lines(tmp_path / "a.jsonl", [*(row for row, _ in BAD_ROWS), *good])
    (report,) = ingest(warehouse, tmp_path, _mapping(tmp_path), path)
    assert (report.inserted, report.quarantined) == (len(good), len(BAD_ROWS))
    with warehouse.connect() as connection:
        found = set(connection.execute(text("select row_number, rule from quarantine where kind = 'vectors'")).all())
    assert {(number, rule) for number, (_, rule) in enumerate(BAD_ROWS, start=1)} <= found


def test_vectors_of_another_dimension_than_the_stored_ones_are_another_version(
    warehouse: Engine, tmp_path: Path
) -> None:
    mapping = _mapping(tmp_path)
    ingest(warehouse, tmp_path, mapping, _json_lines(tmp_path / "a.jsonl", [_row(0, [1.0, 2.0])]))
    longer = _json_lines(tmp_path / "b.jsonl", [_row(number, [1.0, 2.0, 3.0]) for number in range(9)])
    (refused,) = ingest(warehouse, tmp_path, mapping, longer, bad=1.0)
    assert refused.quarantined == 9
    newer = _json_lines(tmp_path / "c.jsonl", [_row(number, [1.0, 2.0, 3.0], "v2") for number in range(9)])
    (loaded,) = ingest(warehouse, tmp_path, mapping, newer)
    assert loaded.inserted == 9


def test_two_first_files_of_different_dimensions_are_not_both_loaded(warehouse: Engine, tmp_path: Path) -> None:
    """Both are valid, as neither knows of the other."""
    files = [
        _json_lines(tmp_path / "a.jsonl", [_row(0, [1.0, 2.0])]),
        _json_lines(tmp_path / "b.jsonl", [_row(1, [1.0, 2.0, 3.0])]),
    ]
    first, second = land_batches(warehouse, read_source(_mapping(tmp_path), files))
    for batch_id in (first, second):
        validate_batch(warehouse, batch_id, Folder.of(tmp_path / "gx"), max_bad_share=0.5, retention_start=LONG_AGO)
    assert load_batch(warehouse, first).inserted == 1
    with pytest.raises(BatchRejected, match="have 3 numbers, those of another batch 2"):
        load_batch(warehouse, second)
    assert count(warehouse, "select count(*) from item_vectors") == 1


def test_a_late_row_of_an_earlier_version_does_not_bring_it_back(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    mapping = _mapping(tmp_path)
    rows = [_row(0, [1.0, 0.0])], [_row(0, [1.0, 0.0, 0.0], "v2")], [_row(1, [0.0, 1.0])]
    for number, delivered in enumerate(rows):
        ingest(warehouse, tmp_path, mapping, _json_lines(tmp_path / f"{number}.jsonl", delivered))
    snapshot = build_snapshot(warehouse, Folder.of(tmp_path / "snapshots"), PARAMETERS)
    assert _stored(snapshot) == {"i0 v2": [1.0, 0.0, 0.0]}


def test_a_csv_file_has_vectors_as_text(warehouse: Engine, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('sku,embedding,encoder\ni1,"[1.5, -2e-1]",v1\n', encoding="utf-8")
    mapping = _mapping(tmp_path, MAPPING.replace("jsonl", "csv"))
    (report,) = ingest(warehouse, tmp_path, mapping, tmp_path / "a.csv")
    assert report.inserted == 1
    assert count(warehouse, "select count(*) from item_vectors where vector = '{1.5,-0.2}'") == 1


def test_a_snapshot_has_the_latest_version_of_a_space_as_of_its_change(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    mapping, folder = _mapping(tmp_path), Folder.of(tmp_path / "snapshots")
    without = build_snapshot(warehouse, folder, PARAMETERS)
    assert without.vector_table().num_rows == 0
    first = [_row(0, [1.0, 0.0]), _row(1, [0.0, 1.0]), _row(1, [0.5, 1.0])]  # the last of a file wins
    ingest(warehouse, tmp_path, mapping, _json_lines(tmp_path / "a.jsonl", first))
    old = build_snapshot(warehouse, folder, PARAMETERS)
    corrected = [_row(0, [2.0, 0.0])]
    ingest(warehouse, tmp_path, mapping, _json_lines(tmp_path / "b.jsonl", corrected))
    assert _stored(build_snapshot(warehouse, folder, PARAMETERS)) == {"i0 v1": [2.0, 0.0], "i1 v1": [0.5, 1.0]}
    ingest(warehouse, tmp_path, mapping, _json_lines(tmp_path / "c.jsonl", [_row(0, [3.0], "v2")]))
    newest = build_snapshot(warehouse, folder, PARAMETERS)
    drop_snapshots(warehouse, folder, timedelta(days=1))
    assert _stored(newest) == {"i0 v2": [3.0]}
    assert _stored(old) == {"i0 v1": [1.0, 0.0], "i1 v1": [0.5, 1.0]}
    again = build_snapshot(warehouse, folder, PARAMETERS, old.cutoff, old.as_of_change)
    assert again.snapshot_id == old.snapshot_id
    assert open_snapshot(folder, newest.snapshot_id) == newest
    assert len({snapshot.snapshot_id for snapshot in (without, old, newest)}) == 3


def test_retracting_a_batch_brings_the_earlier_vectors_back(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    mapping = _mapping(tmp_path)
    ingest(warehouse, tmp_path, mapping, _json_lines(tmp_path / "a.jsonl", [_row(0, [1.0, 0.0])]))
    wrong = _json_lines(tmp_path / "b.jsonl", [_row(0, [9.0], "v2")])
    (report,) = ingest(warehouse, tmp_path, mapping, wrong)
    retract(warehouse, report.batch_id, "of another catalog")
    snapshot = build_snapshot(warehouse, Folder.of(tmp_path / "snapshots"), PARAMETERS)
    assert _stored(snapshot) == {"i0 v1": [1.0, 0.0]}
    assert count(warehouse, "select count(*) from item_vectors") == 1


def test_spaces_are_side_by_side_and_zero_where_an_item_has_no_vector() -> None:
    random = np.random.default_rng(0)
    rows = [
        {"item_id": f"i{number}", "space": space, "version": "", "vector": random.normal(3, 1, size).tolist()}
        for space, size, numbers in (("image", 200, range(10)), ("sound", 4, range(5, 12)))
        for number in numbers
    ]
    rows.append({"item_id": "unknown", "space": "image", "version": "", "vector": [1.0] * 200})
    found = read_vector_spaces(pa.Table.from_pylist(rows), vocabulary())
    assert found is not None
    assert found.dims == {"image": 128, "sound": 4}
    image, sound = found.vectors[2:, :128], found.vectors[2:, 128:]
    assert image.any(1).tolist() == [number < 10 for number in range(len(image))]
    assert sound.any(1).tolist() == [5 <= number < 12 for number in range(len(sound))]
    assert sound[5:12].mean(0) == pytest.approx(np.zeros(4), abs=1e-6)
    assert np.linalg.norm(image[:10], axis=1).mean() == pytest.approx(1.0, rel=1e-5)


def test_vectors_keep_their_similarities_when_they_become_shorter() -> None:
    random = np.random.default_rng(0)
    near, far = random.normal(size=(2, 300)).astype(np.float32)
    given = np.stack([near, near + 0.1, far, *random.normal(size=(20, 300))]).astype(np.float32)
    prepared = prepare_vectors(given)
    assert prepared.shape == (23, 128)
    assert prepared[0] @ prepared[1] > 5 * abs(prepared[0] @ prepared[2])


@pytest.mark.parametrize("rows", [1, 20])
def test_vectors_that_are_all_the_same_say_nothing(rows: int) -> None:
    vector = np.random.default_rng(0).normal(size=384)
    same = np.tile(vector / np.linalg.norm(vector), (rows, 1)).astype(np.float32)
    assert not prepare_vectors(same).any()


def test_an_outlier_does_not_silence_the_others() -> None:
    vectors = [[1.0, 0.0], [0.0, 1.0], [2e38, 1.0], [-1e30, 2.0]]
    rows = [
        {"item_id": f"i{number}", "space": "image", "version": "", "vector": vector}
        for number, vector in enumerate(vectors)
    ]
    found = read_vector_spaces(pa.Table.from_pylist(rows), vocabulary())
    assert found is not None
    assert np.isfinite(found.vectors).all()
    assert np.linalg.norm(found.vectors[2:6], axis=1).min() > 0.1


@pytest.fixture(scope="module")
def run_id(postgres: str, tracking_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run that was trained on vectors of the items' images."""
    home = tmp_path_factory.mktemp("vectors")
    (home / "gate.toml").write_text(LENIENT_GATE_RULES)
    options = {"MIN_ITEM_EVENTS": 1, "TEST_SHARE": 0.2, "MAX_TRAINING_EPOCHS": 3, "GATE_RULES": home / "gate.toml"}
    with configured_shop(postgres, tracking_template, home, **options) as warehouse:
        fill(warehouse)
        random = np.random.default_rng(0)
        rows = [_row(number, random.normal(size=6).tolist()) for number in range(40)]
        ingestion.ingest_files(_mapping(home), [str(_json_lines(home / "a.jsonl", rows))])
        features.build_features()
        yield training.train_model()
        engine().dispose()


def test_a_model_reads_the_vectors_and_says_so(run_id: str) -> None:
    network = load_run_model(run_id).network
    assert network.config.vector_spaces == {"image v1": 6}
    assert network.items.spaces.any(1).sum() > 30
    training.evaluate_run(run_id)
    card = client().download_artifacts(run_id, "model_card.md")
    assert "vectors of the space image v1 (6 dimensions)" in Path(card).read_text(encoding="utf-8")
