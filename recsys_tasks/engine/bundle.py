"""The bundle: an immutable folder with everything the endpoint needs of a model, named by its content."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recsys_tasks.engine.catalog import Catalogue, Columns
from recsys_tasks.engine.scoring import ItemVectors
from recsys_tasks.engine.throttle import Pause, no_pause
from recsys_tasks.errors import BundleCorrupt
from recsys_tasks.features.vocabulary import Vocabulary

FORMAT = 4
MANIFEST, GOLDEN, HISTORIES, VOCABULARY = "manifest.json", "golden.json", "histories.npz", "vocabulary.json"
ENCODER, DECODER, CATALOGUE = "encoder.onnx", "decoder.onnx", "catalogue.json"
NETWORK, SCAN, VECTORS, BIAS, WORDS = "network.json", "scan.onnx", "items.npy", "bias.npy", "words.npy"
MODEL = (NETWORK, ENCODER, DECODER, SCAN, VECTORS, BIAS, WORDS, VOCABULARY)  # what a trained model has of its own
FILES = (*MODEL, CATALOGUE, HISTORIES, GOLDEN)


@dataclass(frozen=True)
class Histories:
    """What users did until the bundle's cut-off: events [N] grouped by user, oldest first; times since 1970."""

    row_of: dict[str, int]
    start: np.ndarray
    item: np.ndarray
    kind: np.ndarray
    seconds: np.ndarray
    popularity: np.ndarray
    words: np.ndarray  # [N, A] of searches

    @classmethod
    def of_nobody(cls, popularity: np.ndarray) -> Histories:
        """Histories without a user."""
        nothing = np.zeros(0, np.int64)
        return cls({}, nothing, nothing, nothing, nothing.astype(float), popularity, nothing.reshape(0, 0))

    def of(self, user_id: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Items, kinds, times and words of a user's events; empty for one that is not known."""
        row = self.row_of.get(user_id or "")
        part = slice(0, 0) if row is None else slice(int(self.start[row]), int(self.start[row + 1]))
        return self.item[part], self.kind[part], self.seconds[part], self.words[part]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked against its manifest.

    Attributes:
        items: vectors by the vocabulary's numbers; words: vectors [C, D] of content tokens.
        reads_searches: whether the model makes anything of them.
    """

    folder: Path
    manifest: dict[str, Any]
    digest: str
    vocabulary: Vocabulary
    items: ItemVectors
    words: np.ndarray
    reads_searches: bool
    catalogue: Catalogue
    histories: Histories
    golden: list[dict[str, Any]]

    @classmethod
    def of_model(cls, folder: Path, vocabulary: Vocabulary) -> Bundle:
        """A model alone: no users, and nothing known of the items beside their titles."""
        catalogue = Catalogue(vocabulary, Columns.unknown(len(vocabulary.item_ids)))
        users = Histories.of_nobody(vocabulary.all_counts())
        vectors = _vectors(folder, len(vocabulary))
        return cls(folder, {}, "", vocabulary, *vectors, _reads_searches(folder), catalogue, users, [])

    @property
    def model_version(self) -> str:
        """The registered model's version."""
        return str(self.manifest["model_version"])

    @cached_property
    def examination(self) -> np.ndarray:
        """The chance [P] that each place of a list is looked at; empty where it is not known."""
        return np.asarray(self.manifest.get("examination", ()), float)

    @cached_property
    def fatigue(self) -> np.ndarray:
        """What remains [L] of the chance to act on an item after so many looks at it; empty where it is not known."""
        return np.asarray(self.manifest.get("fatigue", ()), float)

    @cached_property
    def cutoff(self) -> datetime:
        """Up to when the histories go."""
        return _cutoff(self.manifest)


def seal(folder: Path, lineage: dict[str, Any]) -> str:
    """Writes the manifest of a folder that holds all `FILES`; returns the digest that names the bundle."""
    checksums = {name: _sha256(folder / name) for name in FILES}
    manifest = {"format": FORMAT, **lineage, "files": checksums}
    text = json.dumps(manifest, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def bundle_digest(folder: Path) -> str:
    """The digest that names a bundle: that of its manifest, which has those of all other files."""
    return _sha256(folder / MANIFEST)


def read_bundle(folder: Path, pause: Pause = no_pause) -> Bundle:
    """Reads a bundle after checking every file against the manifest, in pieces with a pause after each.

    Raises:
        BundleCorrupt: a file is missing, differs from its checksum, or cannot be understood.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise BundleCorrupt(f"The bundle has format {manifest['format']}; this endpoint reads {FORMAT}")
        for name in FILES:
            if _sha256(folder / name) != manifest["files"][name]:
                raise BundleCorrupt(f"{name} does not match its checksum in the manifest")
            pause()
        _cutoff(manifest)
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        pause()
        items, words = _vectors(folder, len(vocabulary))
        reads = _reads_searches(folder)
        catalogue = Catalogue(vocabulary, Columns.load(folder / CATALOGUE, len(vocabulary.item_ids)))
        pause()
        histories = _histories(folder / HISTORIES)
        pause()
        golden = json.loads((folder / GOLDEN).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleCorrupt(f"The bundle cannot be read: {type(error).__name__}: {error}") from error
    digest = hashlib.sha256(text).hexdigest()
    return Bundle(folder, manifest, digest, vocabulary, items, words, reads, catalogue, histories, golden)


def pack(folder: Path) -> bytes:
    """The bundle as a tar archive; the same bundle gives the same bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in (MANIFEST, *FILES):
            entry = tarfile.TarInfo(name)
            entry.size = (folder / name).stat().st_size
            with (folder / name).open("rb") as file:
                archive.addfile(entry, file)
    return packed.getvalue()


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks what `pack` made.

    Raises:
        BundleCorrupt: it is no archive, or holds anything else than a bundle's files.
    """
    try:
        with tarfile.open(archive, mode="r:") as packed:
            members = packed.getmembers()
            names = sorted(member.name for member in members)
            if names != sorted((MANIFEST, *FILES)) or not all(member.isfile() for member in members):
                raise BundleCorrupt(
                    f"The archive holds {', '.join(names)[:200]}; expected {', '.join((MANIFEST, *FILES))}"
                )
            packed.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise BundleCorrupt(f"It is not a bundle's tar archive: {error}") from error


def _vectors(folder: Path, items: int) -> tuple[ItemVectors, np.ndarray]:
    """Of items, and of words; both mapped from their files, which processes share."""
    vectors, bias, words = (
        np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False)) for name in (VECTORS, BIAS, WORDS)
    )
    if vectors.ndim != 2 or bias.shape != (items,) or words.shape[1:] != vectors.shape[1:] or len(vectors) != items:
        shapes = ", ".join(
            f"{name} {array.shape}" for name, array in ((VECTORS, vectors), (BIAS, bias), (WORDS, words))
        )
        raise BundleCorrupt(f"The vocabulary has {items} numbers, but the arrays are of the shapes {shapes}")
    return ItemVectors(vectors, bias), words


def _reads_searches(folder: Path) -> bool:
    """Whether the model was trained on searches; one that was not makes nothing of them."""
    return bool(json.loads((folder / NETWORK).read_text(encoding="utf-8"))["query_words"])


def _histories(path: Path) -> Histories:
    with np.load(path, allow_pickle=False) as stored:
        users = stored["users"].tolist()
        words = stored["words"] if "words" in stored else np.zeros((len(stored["item"]), 0), np.int32)
        return Histories(
            row_of={user: row for row, user in enumerate(users)},
            **{name: stored[name] for name in ("start", "item", "kind", "seconds", "popularity")},
            words=words,
        )


def _cutoff(manifest: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(manifest["cutoff"]).astimezone(UTC)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
