"""A challenger through the gate, past whoever approves, and onto the endpoints; and back."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recsys_tasks.client.fleet import Fleet, PushFailed
from recsys_tasks.engine.bundle import Bundle, bundle_digest, read_bundle
from recsys_tasks.errors import InputError, OtherModelFormat, RecsysError, UnavailableError
from recsys_tasks.evaluation.comparison import Comparison
from recsys_tasks.evaluation.gate import Decision, Evidence, GateRules, decide, read_rules, within_limits
from recsys_tasks.monitoring.monitors import HOLD, open_alarms
from recsys_tasks.names import CHALLENGER, CHAMPION
from recsys_tasks.promotion import deployment_record
from recsys_tasks.promotion.build import build_bundle, measure_bundle
from recsys_tasks.registry import runs, versions
from recsys_tasks.settings import settings
from recsys_tasks.steps.features import snapshot
from recsys_tasks.warehouse import engine, statement

log = logging.getLogger(__name__)
AUTOMATIC = "automatic"


def build(number: str | None = None) -> tuple[str, Path]:
    """Builds the bundle of a version, by default the challenger; its number and the bundle's folder.

    Raises:
        InputError: there is no challenger.
    """
    version = versions.version_by_number(number) if number else versions.version_by_alias(CHALLENGER)
    if version is None:
        raise InputError("There is no challenger; train a model first")
    return version.number, build_bundle(version, snapshot(version.snapshot_id), bundles_folder())


def judge(number: str, folder: Path) -> Decision:
    """The gate's decision about a version and its bundle, recorded in MLflow; a refusal in the warehouse too."""
    version, rules = versions.version_by_number(number), read_rules(settings().gate_rules)
    decision = decide(rules, _evidence(version, rules, folder))
    runs.log_decision(version, decision)
    if not decision.promote:
        subject = _subject(version, bundle_digest(folder))
        deployment_record.record(
            engine(), subject, deployment_record.REFUSED, decision.reasons, evidence=decision.as_dict()
        )
    for reason in decision.reasons:
        log.info("Version %s: %s", version.number, reason)
    return decision


def activate(
    number: str, folder: Path, reasons: Sequence[str] = (), approved_by: str = AUTOMATIC, evidence: object = None
) -> None:
    """Lets a version's bundle serve at every endpoint, writes that down, and makes it the champion.

    What is done already is not done again, so it goes on from wherever it was killed. Until every endpoint serves the
    bundle and that is written down, the old one counts.

    Raises:
        PushFailed: an endpoint refused it or answers wrongly; the old one serves everywhere.
        UnavailableError: an endpoint, the registry, or another promotion that is under way; likewise, unless it says
            that only the alias is missing.
    """
    bundle = read_bundle(folder)
    with deployment_record.one_at_a_time(engine()):
        with failure_on_record(bundle, approved_by, evidence):
            versions.version_by_number(number)  # a registry that is away is found out before anything is changed
            fleet, served = endpoints(), deployment_record.standing(engine()).served
            serving = served[-1].bundle_digest if served else None
            stage(fleet, bundle, serving)
            fleet.activate(bundle, serving)
        if serving != bundle.digest:
            deployment_record.record(
                engine(), subject_of(bundle), deployment_record.PROMOTED, reasons, approved_by, evidence
            )
        _tell_registry(f"champion since {_now()}", approved_by=approved_by)


def reject(number: str, reasons: Sequence[str], rejected_by: str, evidence: object = None) -> None:
    """Records that somebody said no to a version that the gate would have let through."""
    subject = _subject(versions.version_by_number(number))
    deployment_record.record(
        engine(), subject, deployment_record.REFUSED, [f"rejected by {rejected_by}", *reasons], None, evidence
    )


def rollback(reason: str = "asked for by hand", by: str | None = None, bad: str | None = None) -> str:
    """Ends a trial, or puts the previous model back on every endpoint and the alias with it; what serves now.

    Args:
        reason: why, for the record; by: who wants it.
        bad: the version that is to go, which changes nothing if it is gone already. If it serves, a trial beside it
            ends, too: it was measured against what is taken back. By default the one on trial or, where none is, the
            one that serves.

    Raises:
        InputError: nothing was promoted before what serves.
        UnavailableError: an endpoint or the registry does not answer; whatever does, has gone back, and the rest is
            put right by `reconcile`.
    """
    with deployment_record.one_at_a_time(engine()):
        standing, fleet = deployment_record.standing(engine()), endpoints()
        if not standing.served:
            raise InputError("Nothing was promoted so far, so there is nothing to go back to")
        left, trial = standing.served[-1], standing.trial
        if trial is not None and bad in (None, trial.subject.model_version):
            _withdraw(trial.subject, fleet, reason, by)
            return left.model_version
        if bad not in (None, left.model_version):
            return left.model_version
        if len(standing.served) < 2:
            raise InputError(f"No version was promoted before {left.model_version}")
        if trial is not None:
            _withdraw(
                trial.subject, fleet, f"version {left.model_version}, beside which it was tried, goes: {reason}", by
            )
        back = standing.served[-2]
        asked = fleet.bring(back.bundle_digest or "", lambda: find_bundle(back))
        deployment_record.record(engine(), back, deployment_record.ROLLED_BACK, [reason, *_silent(asked.problems)], by)
        _tell_registry(f"champion again since {_now()}: {reason}")
        runs.tag(versions.version_by_number(left.model_version), serving=f"rolled back at {_now()}: {reason}")
    if asked.problems:
        raise UnavailableError(
            f"Version {back.model_version} serves again, but not everywhere: {'; '.join(_silent(asked.problems))}."
            " `python -m recsys_tasks reconcile` puts the rest right"
        )
    return back.model_version


def _withdraw(tried: deployment_record.Subject, fleet: Fleet, reason: str, by: str | None) -> None:
    """Ends the trial of a version; what serves, serves everybody."""
    fleet.discard()
    deployment_record.record(engine(), tried, deployment_record.WITHDRAWN, [reason], by)


def endpoints() -> Fleet:
    """The endpoints of the settings."""
    return Fleet(settings().endpoint_urls, settings().require_admin_token())


def bundles_folder() -> Path:
    """Where bundles are built, each in a folder named by its digest."""
    return settings().home / "bundles"


def subject_of(bundle: Bundle) -> deployment_record.Subject:
    """What a decision about a bundle is about."""
    lineage = bundle.manifest
    return deployment_record.Subject(bundle.model_version, lineage["run_id"], lineage["snapshot_id"], bundle.digest)


def find_bundle(subject: deployment_record.Subject) -> Path:
    """The bundle of something that served, built again where its folder is gone.

    Raises:
        InputError: its run or snapshot is gone, too, or gives another bundle today.
    """
    folder = bundles_folder() / (subject.bundle_digest or "")
    if not folder.is_dir():
        _, folder = build(subject.model_version)
    if bundle_digest(folder) != subject.bundle_digest:
        raise InputError(
            f"The bundle of version {subject.model_version} is gone, and its snapshot gives another one today"
            f" ({bundle_digest(folder)}); promote the version again"
        )
    return folder


def stage(fleet: Fleet, bundle: Bundle, serving: str | None) -> None:
    """Puts a bundle beside what serves, everywhere, if it keeps the limits everywhere.

    Raises:
        PushFailed: an endpoint refused it, or it is beyond a limit there; it is staged nowhere.
    """
    limits = read_rules(settings().gate_rules).limits
    for url, measured in fleet.stage(bundle.folder, bundle.digest, serving).items():
        here = {name: most for name, most in limits.items() if name in measured}
        broken = [f"{rule}: {found}" for rule, found, kept in within_limits(here, measured) if not kept]
        if broken:
            fleet.discard(bundle.digest)
            raise PushFailed(f"At {url}: {'; '.join(broken)}")


@contextmanager
def failure_on_record(bundle: Bundle, approved_by: str, evidence: object) -> Iterator[None]:
    """Writes down why something failed before it raises that."""
    try:
        yield
    except Exception as error:
        deployment_record.record(
            engine(), subject_of(bundle), deployment_record.FAILED, [str(error)], approved_by, evidence
        )
        raise


def _tell_registry(serving: str, **tags: str) -> None:
    """Points the aliases where the record says, and tags the champion."""
    served = deployment_record.standing(engine()).served
    try:
        versions.point_aliases(served[-1].model_version, served[-2].model_version if served[1:] else None)
        runs.tag(versions.version_by_number(served[-1].model_version), serving=serving, **tags)
    except UnavailableError as error:
        raise UnavailableError(
            f"Version {served[-1].model_version} serves everywhere, only the registry does not know yet: {error}."
            " Try again, or let `python -m recsys_tasks reconcile` put it right"
        ) from error


def _silent(problems: Mapping[str, RecsysError]) -> list[str]:
    return [f"{url}: {error}" for url, error in problems.items()]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _subject(version: versions.Version, digest: str | None = None) -> deployment_record.Subject:
    return deployment_record.Subject(version.number, version.run_id, version.snapshot_id, digest)


def _evidence(version: versions.Version, rules: GateRules, folder: Path) -> Evidence:
    from recsys_tasks.training.evaluation import evaluate_run  # brings torch, which only judging needs

    table = runs.evaluation_of(version.run_id) or evaluate_run(version.run_id, settings().snapshots)
    comparison, notes, same_schema = None, [], True
    champion = versions.version_by_alias(CHAMPION)
    if champion is None:
        notes.append("there is no champion yet: the baselines decide")
    elif champion.number == version.number:
        notes.append("it is the champion: the baselines decide")
    else:
        comparison, problem = _compared(version, champion, rules.champion.confidence)
        same_schema = versions.signature(version) == versions.signature(champion)
        notes += [problem] if problem else []
    measured = measure_bundle(folder) | {"cutoff_age_days": _cutoff_age(version)}
    return Evidence(table, comparison, measured, same_schema, notes, _holds())


def _holds() -> list[str]:
    """What open alarms have against promoting anything now, in words."""
    with engine().connect() as connection:
        alarms = open_alarms(connection)
    return [
        f"since {alarm.raised_at:%Y-%m-%d %H:%M} UTC: {alarm.rule}: {alarm.explanation}"
        for alarm in alarms
        if alarm.action == HOLD
    ]


def _compared(
    version: versions.Version, champion: versions.Version, confidence: float
) -> tuple[Comparison | None, str | None]:
    """The comparison with the champion on the version's test sessions, or why there is none."""
    from recsys_tasks.training.evaluation import compare_runs

    try:
        comparison = compare_runs(version.run_id, champion.run_id, confidence, settings().snapshots)
    except (OtherModelFormat, InputError) as error:
        return None, f"not compared with champion version {champion.number}: {error}"
    runs.log_comparison(version.run_id, champion.number, comparison)
    return comparison, None


def _cutoff_age(version: versions.Version) -> float:
    """How many days the version's snapshot is behind the warehouse's latest event."""
    with engine().connect() as connection:
        last_event = connection.scalar(statement("promotion/last_event"))
    if last_event is None:
        return 0.0
    behind: timedelta = last_event - snapshot(version.snapshot_id).cutoff
    return max(behind / timedelta(days=1), 0.0)
