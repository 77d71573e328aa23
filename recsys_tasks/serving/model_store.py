"""Which bundle serves: staged, tried, swapped in, and put back, across restarts too."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from recsys_tasks.engine.bundle import bundle_digest, read_bundle, unpack
from recsys_tasks.engine.engine import Answer, Engine
from recsys_tasks.engine.item_updates import Addition, Additions
from recsys_tasks.engine.memory import available_bytes, resident_bytes
from recsys_tasks.engine.merchandising import Rules
from recsys_tasks.engine.probe import Measured, probe
from recsys_tasks.engine.throttle import Rests
from recsys_tasks.errors import InputError, InvariantError
from recsys_tasks.serving.rollout import Ask, Challenger, Terms

log = logging.getLogger(__name__)


class Staged(msgspec.Struct):
    """A bundle beside the one that serves, as it is to be found after a restart."""

    bundle: str
    measured: Measured
    terms: Terms = Terms()
    ended: str | None = None


class Serving(msgspec.Struct):
    """Digests of the bundle that serves and of the one that served before, and the staged one."""

    active: str | None = None
    previous: str | None = None
    staged: Staged | None = None


class Models:
    """The bundles of one endpoint, each in a folder named by its digest, and the engine of the active one.

    `stage`, `activate`, `discard` and `roll_back` may run beside answers in another thread, but not beside each other.
    """

    def __init__(
        self,
        folder: Path,
        most_megabytes: int | None = None,
        rules: Rules | None = None,
        others: Sequence[Path] = (),
        additions: Additions | None = None,
        kept_megabytes: int = 64,
        keep_before: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._most_megabytes = most_megabytes
        self._rules = rules
        self._others = others
        self._additions = additions or Additions()
        self._kept_bytes = kept_megabytes << 20
        self._pointer = folder / "serving.json"
        self.serving = self._read_pointer()
        self._forget_others()  # what a kill left half unpacked
        self.engine = self._first_usable()
        self.challenger = self._challenger_of_before()
        self.before = self._usable(self.serving.previous) if keep_before else None  # what served before this

    @contextmanager
    def arriving(self) -> Iterator[Path]:
        """A file for an archive on its way, removed when it was dealt with."""
        file, name = tempfile.mkstemp(prefix=".arriving-", dir=self._folder)
        os.close(file)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def stage(self, archive: Path) -> Challenger:
        """Unpacks a bundle, checks and measures it, and keeps it beside the one that serves, which stays as it is.

        What was staged before goes, unless it is on trial.

        Raises:
            BundleCorrupt, GoldenMismatch, BundleUnusable: the bundle is not to be used; nothing of it is kept.
            InputError: another bundle is on trial.
        """
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=self._folder))
        try:
            unpack(archive, staging)
            digest = bundle_digest(staging)
            self._refuse_beside_a_trial(digest)
            if self.challenger is not None and self.challenger.engine.bundle.digest == digest:
                return self.challenger
            self._share_files(staging, digest)
            measured = probe(staging, self._room())
            self._let_go()
            home = self._folder / digest
            if digest != self.serving.active:
                shutil.rmtree(home, ignore_errors=True)
                staging.rename(home)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        challenger = Challenger(self._beside_answers(home), measured, Terms())
        if self.engine is not None:
            challenger.engine.warm(self.engine)
        self._write_pointer(staged=Staged(digest, measured))
        self.challenger = challenger
        self._forget_others()
        return challenger

    def begin_trial(self, digest: str, terms: Terms) -> Challenger:
        """Tries the staged bundle by terms.

        Raises:
            InputError: that bundle is not staged.
        """
        challenger = self._staged(digest)
        challenger.begin(terms)
        self._write_pointer(staged=Staged(digest, challenger.measured, challenger.terms))
        return challenger

    def activate(self, digest: str) -> Engine:
        """Lets a staged bundle serve; one assignment, so that each answer comes from one bundle whole.

        Raises:
            InputError: that bundle is neither staged nor serves.
        """
        if self.engine is not None and self.engine.bundle.digest == digest:
            self.discard(digest)
            return self.engine
        challenger = self._staged(digest)
        challenger.close()
        self._write_pointer(active=digest, previous=self.serving.active, staged=None)
        self.before = self.engine  # going back is not to wait for it
        self.engine, self.challenger = challenger.engine, None
        self._forget_others()
        log.info("Serving model version %s, bundle %s", self.engine.bundle.model_version, digest)
        return self.engine

    def discard(self, digest: str | None = None) -> None:
        """Lets go of what is staged, or only of a certain bundle."""
        challenger = self.challenger
        if challenger is None or digest not in (None, challenger.engine.bundle.digest):
            return
        self._let_go()
        self._write_pointer(staged=None)
        self._forget_others()

    def roll_back(self, to_none: bool = False) -> Engine | None:
        """Lets the bundle serve that served before; with `to_none`, nothing where none did.

        Raises:
            InputError: none did.
        """
        if self.serving.previous is None and to_none:
            self._write_pointer(active=None)
            self.engine = None
            return None
        if self.serving.previous is None:
            raise InputError("no bundle served before this one")
        back = self.before
        if back is None or back.bundle.digest != self.serving.previous:
            back = self._load(self.serving.previous)
        self._write_pointer(active=self.serving.previous, previous=None)
        self.engine, self.before = back, None
        return back

    def answer(self, serving: Engine, key: str | None, ask: Ask) -> tuple[Engine, Answer]:
        """The answer of the model whose turn it is; see `Challenger.answer`."""
        challenger = self.challenger
        if challenger is None:
            return serving, ask(serving)
        found = challenger.answer(serving, key, ask)
        staged = self.serving.staged
        if staged is not None and challenger.ended != staged.ended:
            self._write_pointer(staged=msgspec.structs.replace(staged, ended=challenger.ended))
        return found

    def put_items(self, news: Mapping[str, Addition]) -> None:
        """Lets every model know what was told of items; `stage` and those must not run beside it."""
        if self.engine is not None:
            self.engine = self.engine.with_items(news)
        if self.before is not None:
            self.before = self.before.with_items(news)
        if self.challenger is not None:
            self.challenger.put_items(news)

    def forget(self, user_id: str) -> None:
        """Drops what the engines keep of a user between answers."""
        if self.engine is not None:
            self.engine.forget(user_id)
        if self.before is not None:
            self.before.forget(user_id)
        if self.challenger is not None:
            self.challenger.forget(user_id)

    def _let_go(self) -> None:
        challenger, self.challenger = self.challenger, None
        if challenger is not None:
            challenger.close()

    def rest(self) -> None:
        """Lets the engine that served before take less memory. For the thread that answers: it may be in the midst of
        an answer of that engine still."""
        if self.before is not None:
            self.before.rest()

    def _share_files(self, folder: Path, digest: str) -> None:
        """Files of a bundle that another worker of this machine has are the same ones, in memory too: what is mapped
        from them is there once."""
        for other in self._others:
            for file in folder.iterdir():
                with suppress(OSError):  # it went away meanwhile, or lies on another disk
                    link = file.with_suffix(".link")
                    link.hardlink_to(other / digest / file.name)
                    link.replace(file)

    def _staged(self, digest: str) -> Challenger:
        if self.challenger is None or self.challenger.engine.bundle.digest != digest:
            held = self.challenger.engine.bundle.digest if self.challenger else "none"
            raise InputError(f"bundle {digest} is not staged here, but {held}")
        return self.challenger

    def _refuse_beside_a_trial(self, digest: str) -> None:
        other = self.challenger
        if other is not None and other.on_trial and other.engine.bundle.digest != digest:
            raise InputError(
                f"version {other.engine.bundle.model_version} is on trial here; wait, or end that by a rollback"
            )

    def _room(self) -> int:
        """How many bytes a bundle more may take."""
        left = available_bytes()
        if self._most_megabytes is not None:
            left = min(left, self._most_megabytes * 10**6 - resident_bytes())
        return max(left, 0)

    def _first_usable(self) -> Engine | None:
        """The active bundle's engine; where that bundle is broken, the previous one's, or none: readiness tells."""
        return self._usable(self.serving.active) or self._usable(self.serving.previous)

    def _usable(self, digest: str | None) -> Engine | None:
        try:
            return None if digest is None else self._load(digest)
        except InvariantError as error:
            log.error("Bundle %s cannot serve: %s", digest, error)
            return None

    def _challenger_of_before(self) -> Challenger | None:
        staged = self.serving.staged
        if staged is None:
            return None
        try:
            return Challenger(self._load(staged.bundle), staged.measured, staged.terms, staged.ended)
        except InvariantError as error:
            log.error("Bundle %s is not staged any more: %s", staged.bundle, error)
            self._write_pointer(staged=None)
            return None

    def _beside_answers(self, folder: Path) -> Engine:
        """The engine of a bundle that was tried, loaded piece by piece."""
        rest = Rests()
        bundle = read_bundle(folder, rest)
        rest()
        engine = Engine(bundle, self._rules, self._kept_bytes, rest)
        rest()
        engine.first_answer(rest)
        rest()
        return self._with_additions(engine)

    def _load(self, digest: str) -> Engine:
        engine = Engine(read_bundle(self._folder / digest), self._rules, self._kept_bytes)
        engine.check_golden()
        engine.first_answer()
        return self._with_additions(engine)

    def _with_additions(self, engine: Engine) -> Engine:
        news = self._additions.after(engine.bundle)
        return engine.with_items(news) if news else engine

    def _read_pointer(self) -> Serving:
        try:
            return msgspec.json.decode(self._pointer.read_bytes(), type=Serving)
        except FileNotFoundError:
            return Serving()
        except msgspec.MsgspecError as error:
            log.error("%s cannot be read: %s", self._pointer, error)
            return Serving()

    def _write_pointer(self, **changes: object) -> None:
        serving = msgspec.structs.replace(self.serving, **changes)
        written = self._pointer.with_suffix(".new")
        with written.open("wb") as file:
            file.write(msgspec.json.encode(serving))
            file.flush()
            os.fsync(file.fileno())
        written.replace(self._pointer)
        self.serving = serving

    def _forget_others(self) -> None:
        staged = self.serving.staged.bundle if self.serving.staged else None
        for path in self._folder.iterdir():
            if path.is_dir() and path.name not in (self.serving.active, self.serving.previous, staged):
                shutil.rmtree(path, ignore_errors=True)
