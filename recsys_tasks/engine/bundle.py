"""The bundle: an immutable folder with all files the endpoint needs to serve a model, identified by its digest."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from recsys_tasks.engine.catalog import Catalog, CatalogColumns
from recsys_tasks.engine.category_meaning import NO_NAMES, CategoryNames
from recsys_tasks.engine.purchase_intent import PurchaseIntent
from recsys_tasks.engine.query_clicks import LearnedQuery, load_learned_queries
from recsys_tasks.engine.scoring import ItemVectors, Neighbors
from recsys_tasks.engine.throttle import Pause, no_pause
from recsys_tasks.errors import BundleCorrupt
from recsys_tasks.features.item_neighbors import NEIGHBOR_FILES, ItemNeighbors
from recsys_tasks.features.session_neighbors import SESSION_FILES, SessionNeighbors
from recsys_tasks.features.vocabulary import Vocabulary

FORMAT = 8
_MOST_ACTIVE = 100
MANIFEST, GOLDEN, HISTORIES, VOCABULARY = "manifest.json", "golden.json", "histories.npz", "vocabulary.json"
ENCODER, DECODER, CATALOG = "encoder.onnx", "decoder.onnx", "catalogue.json"
NETWORK, SCAN, VECTORS, BIAS, WORDS = "network.json", "scan.onnx", "items.npy", "bias.npy", "words.npy"
INTENT, QUERIES, CATEGORY_NAMES = "intent.npz", "queries.json", "category_names.npz"
SECOND_STAGE = "second_stage.onnx"  # empty for none
# Exported from the network.
GRAPH_FILE_NAMES = (ENCODER, DECODER, SCAN, VECTORS, BIAS, WORDS, *NEIGHBOR_FILES, *SESSION_FILES)
MODEL_FILE_NAMES = (NETWORK, *GRAPH_FILE_NAMES, INTENT, SECOND_STAGE, VOCABULARY)
FILES = (*MODEL_FILE_NAMES, CATALOG, HISTORIES, QUERIES, CATEGORY_NAMES, GOLDEN)


@dataclass(frozen=True)
class Histories:
    """User actions until the bundle's cutoff: events [N] grouped by user, oldest first.

    Attributes:
        row_of: row of each user id.
        start: index of each user's first event [U + 1].
        item, kind: item number and event type code [N]; seconds: event time in seconds since 1970 [N].
        popularity: popularity score of each item number [V].
        words: content tokens of search queries [N, A].
    """

    row_of: dict[str, int]
    start: np.ndarray
    item: np.ndarray
    kind: np.ndarray
    seconds: np.ndarray
    popularity: np.ndarray
    words: np.ndarray

    @classmethod
    def without_users(cls, popularity: np.ndarray) -> Histories:
        """Returns histories that contain no user."""
        none = np.zeros(0, np.int64)
        return cls({}, none, none, none, none.astype(float), popularity, none.reshape(0, 0))

    def of(self, user_id: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns items, kinds, seconds and words of a user's events; empty arrays for an unknown user."""
        row = self.row_of.get(user_id or "")
        rows = slice(0, 0) if row is None else slice(int(self.start[row]), int(self.start[row + 1]))
        return self.item[rows], self.kind[rows], self.seconds[rows], self.words[rows]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files match the checksums in its manifest.

    Attributes:
        items: item vectors [V, D] and biases [V], indexed by item number.
        words: vectors of content tokens [C, D].
        neighbors: item and session neighbors.
        has_query_input: whether the model was trained on search queries; a model that was not ignores them.
        is_trained: whether the model was trained; one that was not only has content vectors.
        intent: predicts purchases from the decoder's output.
        learned_queries: queries with the items that people chose after them.
        category_names: names of the category levels with their text vectors; none without a text encoder.
    """

    folder: Path
    manifest: dict[str, Any]
    digest: str
    vocabulary: Vocabulary
    items: ItemVectors
    words: np.ndarray
    neighbors: Neighbors
    has_query_input: bool
    is_trained: bool
    catalog: Catalog
    histories: Histories
    golden: list[dict[str, Any]]
    intent: PurchaseIntent
    learned_queries: Sequence[LearnedQuery] = ()
    category_names: CategoryNames = NO_NAMES

    @classmethod
    def from_model(cls, folder: Path, vocabulary: Vocabulary) -> Bundle:
        """Returns a bundle of the model alone: no users, and no item metadata beyond the vocabulary."""
        catalog = Catalog(vocabulary, CatalogColumns.empty(len(vocabulary.item_ids)))
        histories = Histories.without_users(vocabulary.training_counts())
        vectors = _load_vectors(folder, len(vocabulary))
        neighbors, intent = _load_neighbors(folder, len(vocabulary)), PurchaseIntent.load(folder / INTENT)
        model = (vocabulary, *vectors, neighbors, *_network_flags(folder))
        return cls(folder, {}, "", *model, catalog, histories, [], intent)

    @cached_property
    def most_active_users(self) -> list[str]:
        """The users with the most events, most active first."""
        num_events, users = np.diff(self.histories.start), list(self.histories.row_of)
        return [users[row] for row in np.argsort(-num_events, kind="stable")[:_MOST_ACTIVE]]

    @property
    def model_version(self) -> str:
        """The registered model's version."""
        return str(self.manifest["model_version"])

    @cached_property
    def examination_propensities(self) -> np.ndarray:
        """Examination propensity of each list position [P]; empty where it was not estimated."""
        return np.asarray(self.manifest.get("examination", ()), float)

    @cached_property
    def impression_discounts(self) -> np.ndarray:
        """Factor on an item's action probability after 0, 1, … unclicked impressions [L]; empty if not estimated."""
        return np.asarray(self.manifest.get("fatigue", ()), float)

    @cached_property
    def search_weights(self) -> dict[str, float]:
        """Learned weights of the search signals, by name; empty where the defaults are as good."""
        return dict(self.manifest.get("search_weights", {}))

    @cached_property
    def cutoff(self) -> datetime:
        """Time at which the histories end, UTC."""
        return _parse_cutoff(self.manifest)


def write_manifest(folder: Path, lineage: dict[str, Any]) -> str:
    """Writes the manifest of a folder that contains all `FILES`; returns the bundle's digest."""
    checksums = {name: _sha256(folder / name) for name in FILES}
    manifest = {"format": FORMAT, **lineage, "files": checksums}
    text = json.dumps(manifest, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def bundle_digest(folder: Path) -> str:
    """Returns the bundle's digest: the SHA-256 of its manifest, which contains the checksums of all other files."""
    return _sha256(folder / MANIFEST)


def read_bundle(folder: Path, pause: Pause = no_pause) -> Bundle:
    """Checks every file against the manifest and loads the bundle.

    Args:
        folder: the bundle.
        pause: called after each file or loading step, to throttle the work.

    Raises:
        BundleCorrupt: a file is missing, differs from its checksum or cannot be parsed.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise BundleCorrupt(
                f"The bundle has format {manifest['format']}, but this endpoint reads format {FORMAT}. "
                "Build the bundle again with the endpoint's package version."
            )
        for name in FILES:
            if _sha256(folder / name) != manifest["files"][name]:
                raise BundleCorrupt(f"{name} does not match its checksum in the manifest")
            pause()
        _parse_cutoff(manifest)
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        pause()
        items, words = _load_vectors(folder, len(vocabulary))
        neighbors = _load_neighbors(folder, len(vocabulary))
        flags = _network_flags(folder)
        catalog = Catalog(vocabulary, CatalogColumns.load(folder / CATALOG, len(vocabulary.item_ids)))
        pause()
        histories = _load_histories(folder / HISTORIES)
        pause()
        golden = json.loads((folder / GOLDEN).read_text(encoding="utf-8"))
        intent = PurchaseIntent.load(folder / INTENT)
        search_data = load_learned_queries(folder / QUERIES), CategoryNames.load(folder / CATEGORY_NAMES)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleCorrupt(f"The bundle cannot be read: {type(error).__name__}: {error}") from error
    digest = hashlib.sha256(text).hexdigest()
    model = (vocabulary, items, words, neighbors, *flags)
    return Bundle(folder, manifest, digest, *model, catalog, histories, golden, intent, *search_data)


def pack(folder: Path) -> bytes:
    """Returns the bundle as a tar archive; equal bundles give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in (MANIFEST, *FILES):
            entry = tarfile.TarInfo(name)
            entry.size = (folder / name).stat().st_size
            with (folder / name).open("rb") as file:
                archive.addfile(entry, file)
    return buffer.getvalue()


def read_cutoff(folder: Path) -> datetime | None:
    """Returns the cut-off of a bundle; None if its manifest cannot be read."""
    try:
        return _parse_cutoff(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        return None


def unpack(archive: Path, folder: Path) -> None:
    """Extracts an archive written by `pack` into a folder.

    Raises:
        BundleCorrupt: the file is not a tar archive, or it does not contain exactly a bundle's files. A sparse file,
            which may be far larger than the archive, is none of them.
    """
    try:
        with tarfile.open(archive, mode="r:") as opened:
            members = list(islice(opened, len(FILES) + 2))
            names = sorted(member.name for member in members)
            is_regular = all(member.isfile() and not member.issparse() for member in members)
            if names != sorted((MANIFEST, *FILES)) or not is_regular:
                raise BundleCorrupt(
                    f"The archive contains {', '.join(names)[:200]}; expected {', '.join((MANIFEST, *FILES))}"
                )
            opened.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise BundleCorrupt(f"The file is not a tar archive of a bundle: {error}") from error


def _load_vectors(folder: Path, num_items: int) -> tuple[ItemVectors, np.ndarray]:
    """Returns item vectors [V, D] and token vectors [C, D], memory-mapped so that processes share their pages."""
    vectors, bias, words = (
        np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False)) for name in (VECTORS, BIAS, WORDS)
    )
    if (
        vectors.ndim != 2
        or bias.shape != (num_items,)
        or words.shape[1:] != vectors.shape[1:]
        or len(vectors) != num_items
    ):
        shapes = ", ".join(
            f"{name} {array.shape}" for name, array in ((VECTORS, vectors), (BIAS, bias), (WORDS, words))
        )
        raise BundleCorrupt(f"The vocabulary has {num_items} item numbers, but the arrays have shapes {shapes}")
    return ItemVectors(vectors, bias), words


def _load_neighbors(folder: Path, num_items: int) -> Neighbors:
    items, sessions = ItemNeighbors.load(folder), SessionNeighbors.load(folder)
    if items.start.shape != (num_items + 1,) or items.item.max(initial=0) >= num_items:
        raise BundleCorrupt(f"{', '.join(NEIGHBOR_FILES)} do not fit the vocabulary's {num_items} item numbers")
    if not sessions.is_valid_for(num_items):
        raise BundleCorrupt(f"{', '.join(SESSION_FILES)} do not fit the vocabulary's {num_items} item numbers")
    config = json.loads((folder / NETWORK).read_text(encoding="utf-8"))
    return Neighbors(items, sessions, float(config["session_neighbor_weight"]))


def _network_flags(folder: Path) -> tuple[bool, bool]:
    """Whether the model was trained on search queries, and whether it was trained at all."""
    config = json.loads((folder / NETWORK).read_text(encoding="utf-8"))
    return bool(config["query_words"]), bool(config["is_trained"])


def _load_histories(path: Path) -> Histories:
    with np.load(path, allow_pickle=False) as stored:
        user_ids = stored["users"].tolist()
        words = stored["words"] if "words" in stored else np.zeros((len(stored["item"]), 0), np.int32)
        return Histories(
            row_of={user_id: row for row, user_id in enumerate(user_ids)},
            **{name: stored[name] for name in ("start", "item", "kind", "seconds", "popularity")},
            words=words,
        )


def _parse_cutoff(manifest: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(manifest["cutoff"]).astimezone(UTC)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
