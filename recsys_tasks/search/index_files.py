"""Files of a search index: written once into a folder, checked when they are opened, and copied before a change."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import tantivy

from recsys_tasks.errors import SearchIndexUnusable
from recsys_tasks.search.analysis import Analyzer
from recsys_tasks.search.catalog_names import CatalogNames
from recsys_tasks.search.documents import SCHEMA, DocumentBuilder, ItemText, Pause, add_documents
from recsys_tasks.search.languages import resolve_languages
from recsys_tasks.search.settings import SearchSettings
from recsys_tasks.search.spelling import SpellChecker

_FORMAT = 1  # of the files and of the text analysis
_DESCRIPTION, _WORDS, _NAMES = "index.json", "words.json", "names.npz"
_LOCKS = "*.lock"
PRIVATE, _IN_USE = "private-search-index-", "in-use"  # folder of items that were put later, and its lock
_LIBRARIES = ("tantivy", "icu4py", "opencc", "pystemmer")  # an index fits only the analysis that it was written with


class _Description(msgspec.Struct, forbid_unknown_fields=True):
    """Content of index.json.

    Attributes:
        format: version of the files.
        libraries: versions of the libraries that analyzed the texts.
        configured_languages: of the settings.
        languages: of the stemmers: those configured or detected.
        files: SHA-256 of each other file.
    """

    format: int
    libraries: dict[str, str]
    configured_languages: list[str]
    languages: list[str]
    files: dict[str, str]


def write_index(
    folder: Path, settings: SearchSettings, items: Iterable[ItemText], titles: Iterable[str], pause: Pause
) -> None:
    """Writes the index of a catalog.

    Args:
        folder: is replaced; afterwards it is complete or absent.
        settings: have the languages.
        items: the texts of all items.
        titles: of items, to detect the languages.
        pause: called every 250 items, to throttle the work.

    Raises:
        ConfigurationError: a language of the settings has no stemmer.
    """
    analyzer = Analyzer(resolve_languages(settings.languages, titles))
    building = folder.with_name(f"{folder.name}.building")
    for stale in (folder, building):
        shutil.rmtree(stale, ignore_errors=True)
    building.mkdir(parents=True)
    documents = DocumentBuilder(analyzer, SpellChecker(), CatalogNames())
    add_documents(tantivy.Index(SCHEMA, path=str(building)), documents, items, pause, replaces=False)
    documents.spelling.save(building / _WORDS)
    documents.names.save(building / _NAMES)
    for lock in building.glob(_LOCKS):
        lock.unlink()
    files = {file.name: _checksum(file) for file in building.iterdir()}
    described = _Description(_FORMAT, _library_versions(), settings.languages, list(analyzer.languages), files)
    (building / _DESCRIPTION).write_bytes(msgspec.json.encode(described))
    building.rename(folder)


def open_index(folder: Path, settings: SearchSettings) -> tuple[tantivy.Index, DocumentBuilder]:
    """Opens an index for searches; returns it, and the builder of further documents.

    Raises:
        SearchIndexUnusable: a file is missing or damaged, or was written by other libraries or for other languages.
    """
    try:
        described = msgspec.json.decode((folder / _DESCRIPTION).read_bytes(), type=_Description)
        written_for = described.format, described.libraries, described.configured_languages
        if written_for != (_FORMAT, _library_versions(), settings.languages):
            raise SearchIndexUnusable(
                f"The search index in {folder} was written by other versions or for other languages"
            )
        for name, checksum in described.files.items():
            if _checksum(folder / name) != checksum:
                raise SearchIndexUnusable(f"{name} of the search index in {folder} is damaged")
        spelling, names = SpellChecker.load(folder / _WORDS), CatalogNames.load(folder / _NAMES)
        return tantivy.Index(SCHEMA, path=str(folder)), DocumentBuilder(Analyzer(described.languages), spelling, names)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise SearchIndexUnusable(f"The search index in {folder} cannot be read: {error}") from error


def link_index(source: Path, target: Path) -> None:
    """Makes a second folder of an index, by hard links where possible; a change of one leaves the other as it was.

    Raises:
        OSError: there is no such index, the target exists, or the disk is full.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(_LOCKS), copy_function=_link_or_copy)


class PrivateFolder(TemporaryDirectory[str]):
    """A temporary folder that `remove_left_folders` keeps as long as its process uses it.

    Args:
        parent: folder to create it in; None for that of the system.
    """

    def __init__(self, parent: Path | None) -> None:
        super().__init__(prefix=PRIVATE, dir=parent)
        self._lock = (Path(self.name) / _IN_USE).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)


def remove_left_folders(parent: Path) -> None:
    """Removes the private folders in a folder whose processes were killed."""
    for folder in parent.glob(f"{PRIVATE}*"):
        with suppress(OSError), (folder / _IN_USE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def _library_versions() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
