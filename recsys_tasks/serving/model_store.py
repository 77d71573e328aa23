"""Model store of one endpoint: bundles on disk and their engines; staging, activation and rollback, kept at restart."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec

from recsys_tasks.engine.bundle import bundle_digest, read_bundle, read_cutoff, unpack
from recsys_tasks.engine.engine import Answer, Engine
from recsys_tasks.engine.item_search import SEARCH_INDEX
from recsys_tasks.engine.item_updates import ItemUpdate, ItemUpdates
from recsys_tasks.engine.memory import (
    available_bytes,
    collect_recent_garbage,
    freeze_garbage_collector,
    resident_bytes,
)
from recsys_tasks.engine.probe import BundleMeasurement, probe
from recsys_tasks.engine.search_options import SearchSetup
from recsys_tasks.engine.throttle import Throttle
from recsys_tasks.errors import InputError, InvariantError
from recsys_tasks.search.index_files import link_index, remove_left_folders
from recsys_tasks.serving.durable import replace_file
from recsys_tasks.serving.rollout import AnswerFunction, ChallengerRunner, RolloutTerms
from recsys_tasks.wire.rules import MerchandisingRules

log = logging.getLogger(__name__)


class StagedBundle(msgspec.Struct):
    """The staged bundle and its rollout, as stored in the file serving.json."""

    bundle: str
    measured: BundleMeasurement
    terms: RolloutTerms = RolloutTerms()
    ended: str | None = None


class ServingState(msgspec.Struct):
    """Digests of the active and the previous bundle, and the staged bundle: the content of the file serving.json."""

    active: str | None = None
    previous: str | None = None
    staged: StagedBundle | None = None


class ModelStore:
    """The bundles of one endpoint, each in a folder named by its digest, and the engines loaded from them.

    `stage`, `activate`, `discard` and `roll_back` may run in another thread than `answer`, but only one of them at a
    time.

    Args:
        folder: holds the bundles and the file serving.json.
        max_memory_mb: limit of the process's memory; default: the memory of the machine.
        rules: merchandising rules of the engines.
        search_setup: of the engines' search.
        other_folders: bundle folders of the other workers on this machine.
        item_updates: item updates since the bundles' cutoffs.
        cache_mb: size of each engine's cache.
        keep_previous: loads the previous bundle too, for an experiment.
    """

    def __init__(
        self,
        folder: Path,
        max_memory_mb: int | None = None,
        rules: MerchandisingRules | None = None,
        search_setup: SearchSetup | None = None,
        other_folders: Sequence[Path] = (),
        item_updates: ItemUpdates | None = None,
        cache_mb: int = 64,
        keep_previous: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._max_memory_mb = max_memory_mb
        self._rules, self._search_setup = rules, search_setup
        self._other_folders = other_folders
        self._item_updates = item_updates or ItemUpdates()
        self._cache_bytes = cache_mb << 20
        self._state_path = folder / "serving.json"
        self.state = self._read_state()
        self._remove_unused_folders()  # of an upload that a crash interrupted
        for bundle_folder in folder.glob("*/"):
            remove_left_folders(bundle_folder)
        self.engine = self._load_active_or_previous()
        self.challenger = self._restore_challenger()
        self.previous_engine = self._try_load(self.state.previous) if keep_previous else None

    @contextmanager
    def receive_archive(self) -> Iterator[Path]:
        """Yields the path of a temporary file for an uploaded archive; removes the file at the end."""
        file, name = tempfile.mkstemp(prefix=".arriving-", dir=self._folder)
        os.close(file)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def stage(self, archive: Path) -> ChallengerRunner:
        """Unpacks, checks and measures a bundle, and loads it beside the active one, which does not change.

        Replaces the staged bundle, unless that is in a rollout.

        Raises:
            BundleCorrupt, GoldenMismatch, BundleUnusable: the bundle fails its checks; nothing of it is kept.
            InputError: another bundle is in a rollout.
        """
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=self._folder))
        try:
            unpack(archive, staging)
            digest = bundle_digest(staging)
            self._check_no_other_rollout(digest)
            if self.challenger is not None and self.challenger.engine.bundle.digest == digest:
                return self.challenger
            self._link_shared_files(staging, digest)
            search = self._search_setup.settings if self._search_setup else None
            measured = probe(staging, self._free_memory_bytes(), search)
            self._close_challenger()
            bundle_folder = self._folder / digest
            if digest != self.state.active:
                shutil.rmtree(bundle_folder, ignore_errors=True)
                staging.rename(bundle_folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        collect_recent_garbage()  # before the new model is loaded, whose objects are many
        challenger = ChallengerRunner(self._load_throttled(bundle_folder), measured, RolloutTerms())
        if self.engine is not None:
            challenger.engine.warm_cache(self.engine)
        freeze_garbage_collector()
        self._write_state(staged=StagedBundle(digest, measured))
        self.challenger = challenger
        self._remove_unused_folders()
        return challenger

    def start_rollout(self, digest: str, terms: RolloutTerms) -> ChallengerRunner:
        """Starts the rollout of the staged bundle, or changes its terms.

        Raises:
            InputError: that bundle is not staged.
        """
        challenger = self._get_staged(digest)
        challenger.start(terms)
        self._write_state(staged=StagedBundle(digest, challenger.measured, challenger.terms))
        return challenger

    def activate(self, digest: str) -> Engine:
        """Makes the staged bundle the active one, in one assignment: each answer comes from a single bundle.

        Raises:
            InputError: that bundle is neither staged nor active.
        """
        if self.engine is not None and self.engine.bundle.digest == digest:
            self.discard(digest)
            return self.engine
        challenger = self._get_staged(digest)
        challenger.close()
        self._write_state(active=digest, previous=self.state.active, staged=None)
        self.previous_engine = self.engine  # stays loaded, so that a rollback is immediate
        self.engine, self.challenger = challenger.engine, None
        self._remove_unused_folders()
        log.info("Activated model version %s, bundle %s", self.engine.bundle.model_version, digest)
        return self.engine

    def discard(self, digest: str | None = None) -> None:
        """Discards the staged bundle; with a digest, only if it is that one."""
        challenger = self.challenger
        if challenger is None or digest not in (None, challenger.engine.bundle.digest):
            return
        self._close_challenger()
        self._write_state(staged=None)
        self._remove_unused_folders()

    def roll_back(self, to_none: bool = False) -> Engine | None:
        """Activates the previous bundle; with `to_none`, no bundle if there is no previous one.

        Raises:
            InputError: there is no previous bundle.
        """
        if self.state.previous is None and to_none:
            self._write_state(active=None)
            self.engine = None
            return None
        if self.state.previous is None:
            raise InputError("there is no previous bundle to roll back to")
        engine = self.previous_engine
        if engine is None or engine.bundle.digest != self.state.previous:
            engine = self._load(self.state.previous)
            freeze_garbage_collector()
        self._write_state(active=self.state.previous, previous=None)
        self.engine, self.previous_engine = engine, None
        return engine

    def answer(self, active: Engine, visitor: str | None, compute: AnswerFunction) -> tuple[Engine, Answer]:
        """Returns the engine that answers a request, and its answer; see `ChallengerRunner.answer`."""
        challenger = self.challenger
        if challenger is None:
            return active, compute(active)
        result = challenger.answer(active, visitor, compute)
        staged = self.state.staged
        if staged is not None and challenger.ended != staged.ended:
            self._write_state(staged=msgspec.structs.replace(staged, ended=challenger.ended))
        return result

    def oldest_cutoff(self) -> datetime | None:
        """Returns the oldest cut-off of the active, the previous and the staged bundle; None without any."""
        staged = self.state.staged.bundle if self.state.staged else None
        digests = [digest for digest in (self.state.active, self.state.previous, staged) if digest is not None]
        return min((cutoff for digest in digests if (cutoff := read_cutoff(self._folder / digest))), default=None)

    def apply_item_updates(self, updates: Mapping[str, ItemUpdate]) -> None:
        """Applies item updates to all engines. Must not run at the same time as `stage` and the other changes."""
        if self.engine is not None:
            self.engine = self.engine.with_items(updates)
        if self.previous_engine is not None:
            self.previous_engine = self.previous_engine.with_items(updates)
        if self.challenger is not None:
            self.challenger.apply_item_updates(updates)

    def apply_rules(self, rules: MerchandisingRules) -> None:
        """Applies merchandising rules to all engines; like `apply_item_updates`."""
        self._rules = rules
        if self.engine is not None:
            self.engine = self.engine.with_rules(rules)
        if self.previous_engine is not None:
            self.previous_engine = self.previous_engine.with_rules(rules)
        if self.challenger is not None:
            self.challenger.engine = self.challenger.engine.with_rules(rules)

    def erase_user(self, user_id: str) -> None:
        """Removes a user from the caches of all engines."""
        if self.engine is not None:
            self.engine.forget(user_id)
        if self.previous_engine is not None:
            self.previous_engine.forget(user_id)
        if self.challenger is not None:
            self.challenger.erase_user(user_id)

    def _close_challenger(self) -> None:
        challenger, self.challenger = self.challenger, None
        if challenger is not None:
            challenger.close()

    def shrink_previous_cache(self) -> None:
        """Shrinks the cache of the previous engine. Only for the thread that answers: it may be using that engine."""
        if self.previous_engine is not None:
            self.previous_engine.shrink_cache()

    def _link_shared_files(self, folder: Path, digest: str) -> None:
        """Replaces files that another worker has too with hard links, so that mapped files are in memory once, and
        takes over its search index."""
        for other in self._other_folders:
            for file in folder.iterdir():
                with suppress(OSError):  # removed meanwhile, or on another disk
                    link = file.with_suffix(".link")
                    link.hardlink_to(other / digest / file.name)
                    link.replace(file)
            with suppress(OSError, shutil.Error):  # it has none; a copy that is not whole is not used
                link_index(other / digest / SEARCH_INDEX, folder / SEARCH_INDEX)

    def _get_staged(self, digest: str) -> ChallengerRunner:
        if self.challenger is None or self.challenger.engine.bundle.digest != digest:
            staged = self.challenger.engine.bundle.digest if self.challenger else "none"
            raise InputError(f"bundle {digest} is not staged here (staged: {staged}); stage it first")
        return self.challenger

    def _check_no_other_rollout(self, digest: str) -> None:
        challenger = self.challenger
        if challenger is not None and challenger.is_in_rollout and challenger.engine.bundle.digest != digest:
            raise InputError(
                f"version {challenger.engine.bundle.model_version} is in a rollout here;"
                " wait until it ends, or end it with a rollback"
            )

    def _free_memory_bytes(self) -> int:
        """Returns the memory that one more bundle may use."""
        free_bytes = available_bytes()
        if self._max_memory_mb is not None:
            free_bytes = min(free_bytes, self._max_memory_mb * 10**6 - resident_bytes())
        return max(free_bytes, 0)

    def _load_active_or_previous(self) -> Engine | None:
        """Loads the active bundle, or the previous one if that is broken; None if neither loads (not ready)."""
        return self._try_load(self.state.active) or self._try_load(self.state.previous)

    def _try_load(self, digest: str | None) -> Engine | None:
        try:
            return None if digest is None else self._load(digest)
        except InvariantError as error:
            log.error("Bundle %s cannot be loaded: %s", digest, error)
            return None

    def _restore_challenger(self) -> ChallengerRunner | None:
        staged = self.state.staged
        if staged is None:
            return None
        try:
            return ChallengerRunner(self._load(staged.bundle), staged.measured, staged.terms, staged.ended)
        except InvariantError as error:
            log.error("Staged bundle %s is discarded, it cannot be loaded: %s", staged.bundle, error)
            self._write_state(staged=None)
            return None

    def _load_throttled(self, folder: Path) -> Engine:
        """Loads a checked bundle in throttled steps, so that request latency stays flat."""
        throttle = Throttle()
        bundle = read_bundle(folder, throttle)
        throttle()
        engine = Engine(bundle, self._rules, self._cache_bytes, throttle, self._search_setup)
        throttle()
        engine.warm_up(throttle)
        throttle()
        return self._with_item_updates(engine)

    def _load(self, digest: str) -> Engine:
        engine = Engine(
            read_bundle(self._folder / digest), self._rules, self._cache_bytes, search_setup=self._search_setup
        )
        engine.check_golden()
        engine.warm_up()
        return self._with_item_updates(engine)

    def _with_item_updates(self, engine: Engine) -> Engine:
        updates = self._item_updates.missing_from(engine.bundle)
        return engine.with_items(updates) if updates else engine

    def _read_state(self) -> ServingState:
        try:
            return msgspec.json.decode(self._state_path.read_bytes(), type=ServingState)
        except FileNotFoundError:
            return ServingState()
        except msgspec.MsgspecError as error:
            log.error("%s cannot be decoded, so no bundle is active: %s", self._state_path, error)
            return ServingState()

    def _write_state(self, **changes: object) -> None:
        state = msgspec.structs.replace(self.state, **changes)
        replace_file(self._state_path, msgspec.json.encode(state))
        self.state = state

    def _remove_unused_folders(self) -> None:
        staged = self.state.staged.bundle if self.state.staged else None
        for path in self._folder.iterdir():
            if path.is_dir() and path.name not in (self.state.active, self.state.previous, staged):
                shutil.rmtree(path, ignore_errors=True)
