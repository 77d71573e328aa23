"""Which bundle serves: staged, checked, swapped in, and put back, across restarts too."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from recsys_tasks.errors import InputError, InvariantError
from recsys_tasks.serving.bundle import read_bundle, unpack
from recsys_tasks.serving.engine import Engine

log = logging.getLogger(__name__)


class Serving(msgspec.Struct):
    """Digests of the bundle that serves and of the one that served before."""

    active: str | None = None
    previous: str | None = None


class Models:
    """The bundles of one endpoint, each in a folder named by its digest, and the engine of the active one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._pointer = folder / "serving.json"
        self._serving = self._read_pointer()
        self.engine: Engine | None = None
        self.engine = self._first_usable()

    def stage(self, archive: bytes) -> Engine:
        """Unpacks a bundle and checks its files and golden answers; what serves stays as it is.

        Raises:
            BundleCorrupt, GoldenMismatch: the bundle is not to be used; nothing of it is kept.
        """
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=self._folder))
        try:
            unpack(archive, staging)
            digest = read_bundle(staging).digest
            home = self._folder / digest
            if not home.exists():
                staging.rename(home)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        try:
            return self._load(digest)
        except InvariantError:
            if digest not in (self._serving.active, self._serving.previous):
                shutil.rmtree(self._folder / digest, ignore_errors=True)
            raise

    def activate(self, engine: Engine) -> None:
        """Lets a staged bundle serve; one assignment, so that each answer comes from one bundle whole."""
        digest = engine.bundle.digest
        if digest != self._serving.active:
            self._write_pointer(Serving(digest, self._serving.active))
        self.engine = engine
        self._forget_others()
        log.info("Serving model version %s, bundle %s", engine.bundle.model_version, digest)

    def roll_back(self, to_none: bool = False) -> Engine | None:
        """Lets the bundle serve that served before; with `to_none`, nothing where none did.

        Raises:
            InputError: none did.
        """
        if self._serving.previous is None and to_none:
            self._write_pointer(Serving())
            self.engine = None
            return None
        if self._serving.previous is None:
            raise InputError("no bundle served before this one")
        engine = self._load(self._serving.previous)
        self._write_pointer(Serving(self._serving.previous, None))
        self.engine = engine
        return engine

    def _first_usable(self) -> Engine | None:
        """The active bundle's engine; where that bundle is broken, the previous one's, or none: readiness tells."""
        for digest in (self._serving.active, self._serving.previous):
            try:
                if digest is not None:
                    return self._load(digest)
            except InvariantError as error:
                log.error("Bundle %s cannot serve: %s", digest, error)
        return None

    def _load(self, digest: str) -> Engine:
        engine = Engine(read_bundle(self._folder / digest))
        engine.check_golden()
        return engine

    def _read_pointer(self) -> Serving:
        try:
            return msgspec.json.decode(self._pointer.read_bytes(), type=Serving)
        except FileNotFoundError:
            return Serving()
        except msgspec.DecodeError as error:
            log.error("%s cannot be read: %s", self._pointer, error)
            return Serving()

    def _write_pointer(self, serving: Serving) -> None:
        written = self._pointer.with_suffix(".new")
        with written.open("wb") as file:
            file.write(msgspec.json.encode(serving))
            file.flush()
            os.fsync(file.fileno())
        written.replace(self._pointer)
        self._serving = serving

    def _forget_others(self) -> None:
        for path in self._folder.iterdir():
            if path.is_dir() and path.name not in (self._serving.active, self._serving.previous):
                shutil.rmtree(path, ignore_errors=True)
