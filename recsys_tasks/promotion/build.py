"""Builds the bundle of a registered version: its graphs, and its users' histories as of its snapshot."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from recsys_tasks.engine.bundle import (
    CATALOG,
    CATEGORY_NAMES,
    DECODER,
    GOLDEN,
    HISTORIES,
    INTENT,
    MODEL_FILE_NAMES,
    NETWORK,
    QUERIES,
    SECOND_STAGE,
    VOCABULARY,
    read_bundle,
    write_manifest,
)
from recsys_tasks.engine.catalog import CatalogColumns
from recsys_tasks.engine.category_meaning import NO_NAMES, CategoryNames
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.graphs import Graph
from recsys_tasks.engine.memory import available_bytes
from recsys_tasks.engine.probe import probe
from recsys_tasks.engine.query_clicks import LearnedQuery, save_learned_queries
from recsys_tasks.errors import BundleCorrupt
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot, encode_snapshot
from recsys_tasks.features.query_clicks import learn_query_clicks
from recsys_tasks.features.sequences import SECONDS_PER_DAY
from recsys_tasks.features.serving_data import catalog_columns, category_names, user_histories
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.features.text_encoder import TextEncoder
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, VIEW
from recsys_tasks.promotion.search_weights import learn_search_weights
from recsys_tasks.registry.versions import Version, download_model_files
from recsys_tasks.storage.folder import Folder

GOLDEN_USERS = 6


def build_bundle(
    version: Version, snapshot: Snapshot, folder: Path, encoder: TextEncoder | None = None, cache: Folder | None = None
) -> Path:
    """The version's bundle, in a folder named by its digest under `folder`.

    Args:
        version: the registered version.
        snapshot: of its catalog and histories.
        folder: of all bundles.
        encoder: of the category names; None for none.
        cache: folder of text vectors.

    Raises:
        OtherModelFormat: the version was trained by a package whose networks this one does not know.
    """
    folder.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
    try:
        with download_model_files(version.run_id) as files:
            copy_model(files, building)
        encoded = encode_snapshot(snapshot, Vocabulary.load(building / VOCABULARY))
        columns = catalog_columns(snapshot.item_table(), encoded.vocabulary)
        names = category_names(encoded.vocabulary, encoder, cache or Folder.of(folder))
        write_data(building, columns, encoded, snapshot.cutoff.timestamp(), learn_query_clicks(snapshot), names)
        lineage = {
            "model_version": version.number,
            "run_id": version.run_id,
            "snapshot_id": version.snapshot_id,
            "cutoff": snapshot.cutoff.isoformat(),
            "examination": snapshot.examination_propensities,
            "fatigue": snapshot.impression_discounts,
        }
        digest = seal_with_golden(building, lineage, golden_requests(encoded))
        building.chmod(0o755)
        home = folder / digest
        if not home.exists():
            building.rename(home)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return home


def copy_model(files: Path, building: Path) -> None:
    """Copies what a trained model has for serving; made anew from its weights where an earlier version of this package
    left something else.

    Raises:
        OtherModelFormat: it cannot be.
    """
    ready = all((files / name).exists() for name in MODEL_FILE_NAMES) and _goes_on(files)
    for name in MODEL_FILE_NAMES if ready else (NETWORK, VOCABULARY):
        shutil.copy(files / name, building / name)
    if not ready:
        from recsys_tasks.model.export import export_graphs  # brings torch, which nothing else here needs
        from recsys_tasks.model.files import load_model

        model = load_model(files)
        model.intent.save(building / INTENT)
        (building / SECOND_STAGE).write_bytes(model.second_stage)
        export_graphs(model.network, building)


def _goes_on(files: Path) -> bool:
    """Whether the decoder of a model is one of this version, which goes on from where a session was."""
    try:
        return bool(Graph(files / DECODER).initial_state())
    except BundleCorrupt:
        return False


def measure_bundle(folder: Path) -> dict[str, float]:
    """Size of a bundle in `bundle_megabytes`, and what trying it showed, as `probe` names it."""
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {"bundle_megabytes": size / 1e6, **msgspec.structs.asdict(probe(folder, available_bytes()))}


def write_data(
    building: Path,
    columns: CatalogColumns,
    encoded: EncodedSnapshot,
    cutoff: float,
    learned_queries: Sequence[LearnedQuery] = (),
    names: CategoryNames = NO_NAMES,
) -> None:
    """Writes what a bundle has beside its model, but for the golden requests."""
    columns.save(building / CATALOG)
    save_learned_queries(learned_queries, building / QUERIES)
    names.save(building / CATEGORY_NAMES)
    np.savez(building / HISTORIES, **user_histories(encoded, cutoff))  # type: ignore[arg-type]


def golden_requests(encoded: EncodedSnapshot) -> list[dict[str, Any]]:
    """Requests of some users with and without a session, of a session alone, and of nobody."""
    timeline, names = encoded.timeline, {code: name for name, code in EVENT_TYPE_CODES.items()}
    latest = float(timeline.seconds[-1]) if len(timeline) else 0.0
    requests: list[dict[str, Any]] = [{"user_id": None, "session": [], "now": latest, "k": 20}]
    if not len(timeline):
        session = [[item_id, VIEW, latest, ""] for item_id in encoded.vocabulary.item_ids[:1]]
        return [*requests, {**requests[0], "session": session}]
    known = [row for row, user in enumerate(encoded.user_ids) if user is not None]
    for row in known[:: max(1, len(known) // GOLDEN_USERS)][:GOLDEN_USERS]:
        last = timeline.user_start[row + 1] - 1
        now = float(timeline.session_seconds[last]) + SECONDS_PER_DAY
        items = [n for n in timeline.item[timeline.user_start[row] : last + 1][-3:].tolist() if n >= FIRST_ITEM]
        session = [[encoded.vocabulary.item_id(number), names[int(timeline.kind[last])], now, ""] for number in items]
        requests.append({"user_id": encoded.user_ids[row], "session": [], "now": now, "k": 20})
        requests.append({"user_id": encoded.user_ids[row], "session": session, "now": now, "k": 20})
        requests.append({"user_id": None, "session": session, "now": now, "k": 20})
    return requests


def seal_with_golden(building: Path, lineage: dict[str, Any], requests: list[dict[str, Any]]) -> str:
    """Answers the requests with the very files of the bundle, then seals it with the answers."""
    (building / GOLDEN).write_text("[]", encoding="utf-8")
    write_manifest(building, lineage)
    engine = Engine(read_bundle(building))
    if weights := learn_search_weights(engine.bundle):
        lineage = {**lineage, "search_weights": weights}
    golden = [{"request": request, "answer": engine.answer_golden(request)} for request in requests]
    (building / GOLDEN).write_text(json.dumps(golden), encoding="utf-8")
    return write_manifest(building, lineage)
