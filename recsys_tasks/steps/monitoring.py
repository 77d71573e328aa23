"""After each collection of feedback: what came of what was shown, whether something is wrong, and what follows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from recsys_tasks.errors import InputError
from recsys_tasks.experiments.definition import Experiment, read_experiment
from recsys_tasks.experiments.online_metrics import CLICK_THROUGH, latest_figures, online_metrics
from recsys_tasks.feedback import attribution
from recsys_tasks.monitoring import monitors
from recsys_tasks.monitoring.report import Report, make_report
from recsys_tasks.names import RECOMMENDATIONS
from recsys_tasks.promotion import deployment_record
from recsys_tasks.registry import runs, versions
from recsys_tasks.settings import settings
from recsys_tasks.steps.features import snapshot
from recsys_tasks.steps.promotion import rollback
from recsys_tasks.warehouse import engine

log = logging.getLogger(__name__)
REPORT, EVERYBODY = "report.html", "everybody"
_FROM_THE_START = "training from the start"


class Reaction(NamedTuple):
    """What followed: the version that serves again, whether to train from the start, and the alarms that are new."""

    rolled_back_to: str | None
    retrain: bool
    new: list[monitors.Alarm]


def count() -> attribution.Counted:
    """Counts the days whose outcomes may have changed, and tells MLflow what came of each version."""
    chosen = settings()
    rules = attribution.CountingRules(chosen.attribution_hours, chosen.bot_requests_per_minute)
    counted = attribution.count_outcomes(engine(), rules)
    if counted.requests:
        log_online()
    return counted


def log_online() -> None:
    """Writes to each model version that showed something what came of it: its rates of all days, and latency and
    coverage of the last one, as metrics of its run beside the offline ones, and in words as a tag.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    with engine().connect() as connection:
        whole = monitors.shown_between(connection)
        if whole is None:
            return
        found, latest = online_metrics(connection, whole), latest_figures(connection)
    by_version: dict[str, dict[tuple[str, str], float]] = {}
    for shown, figures in found.items():
        if shown.list == RECOMMENDATIONS and not shown.segment and shown.model_version:
            of_version = by_version.setdefault(shown.model_version, {})
            arm = shown.arm or EVERYBODY
            of_version |= {(arm, metric): rate.value for metric, rate in figures.rates.items()}
            of_version[arm, "visitors"] = figures.visitors
    for (number, arm, metric), value in latest.items():
        by_version.setdefault(number, {})[arm or EVERYBODY, metric] = value
    for number, metrics in by_version.items():
        words = ", ".join(f"{arm} {value:.2%}" for (arm, metric), value in metrics.items() if metric == CLICK_THROUGH)
        try:
            runs.log_online(versions.version_by_number(number), metrics, f"until {whole.end:%Y-%m-%d}: {words}")
        except InputError as error:  # it was deleted from the registry, its impressions were not
            log.warning("Version %s: %s", number, error)


def watch() -> list[monitors.Found]:
    """What each rule finds now; alarms are opened and closed by it."""
    served = deployment_record.standing(engine()).served
    if not served:
        return []
    standing = _standing(served)
    with engine().begin() as connection:
        found = monitors.judge(connection, monitors.read_rules(settings().watch_rules), standing, experiment())
        monitors.write_alarms(connection, found, standing)
    for finding in found:
        log.log(logging.WARNING if finding.holds else logging.INFO, "%s: %s", finding.rule.name, finding.explanation)
    return found


def react() -> Reaction:
    """Does what the open alarms ask for, once each: back to the version before, or a training from the start.

    A version that is taken back is not what the world has changed about: then nothing is trained anew.
    """
    with engine().connect() as connection:
        new = [alarm for alarm in monitors.open_alarms(connection) if alarm.acted_at is None]
    back = _roll_back([alarm for alarm in new if alarm.action == monitors.ROLL_BACK])
    retrain = [alarm for alarm in new if alarm.action == monitors.RETRAIN] if back is None else []
    for alarm in retrain:
        _note(alarm, _FROM_THE_START)
    for alarm in new:
        if alarm.action in (monitors.TELL, monitors.HOLD):
            _note(alarm, "told")
    return Reaction(back, bool(retrain), new)


def why_retrain() -> str:
    """The open alarms that asked for a training from the start, in words."""
    with engine().connect() as connection:
        alarms = monitors.open_alarms(connection)
    return "; ".join(f"{alarm.rule}: {alarm.explanation}" for alarm in alarms if alarm.action == monitors.RETRAIN)


def experiment() -> Experiment | None:
    """The experiment that the endpoints run, as the settings name it."""
    return read_experiment(settings().experiment_file)


def _roll_back(alarms: list[monitors.Alarm]) -> str | None:
    serving = deployment_record.standing(engine()).served
    against = [alarm for alarm in alarms if serving and alarm.model_version == serving[-1].model_version]
    if not against:
        return None
    why = "; ".join(f"{alarm.rule}: {alarm.explanation}" for alarm in against)
    back = rollback(why, "the watch over feedback") if len(serving) > 1 else None
    for alarm in against:
        _note(alarm, f"rolled back to version {back}" if back else "there is no version before it to go back to")
    return back


def _note(alarm: monitors.Alarm, outcome: str) -> None:
    log.warning("%s: %s", alarm.rule, outcome)
    with engine().begin() as connection:
        monitors.note_acted(connection, alarm, outcome)


class Written(NamedTuple):
    """The report, and where it is."""

    path: Path
    report: Report


def report() -> Written | None:
    """Writes the report on the loop to a file, and to the run of the version that serves as `report.html`; None while
    nothing was shown.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    served = deployment_record.standing(engine()).served
    if not served:
        return None
    rules = monitors.read_rules(settings().watch_rules)
    with engine().connect() as connection:
        findings = monitors.judge(connection, rules, _standing(served), experiment())
        made = make_report(connection, findings, experiment(), _offline)
    if made is None:
        return None
    path = settings().home / REPORT
    path.write_text(made.html(), encoding="utf-8")
    runs.log_file(served[-1].run_id, path)
    return Written(path, made)


def _standing(served: Sequence[deployment_record.Subject]) -> monitors.Served:
    cutoff = snapshot(served[-1].snapshot_id).cutoff
    return monitors.Served(served[-1].model_version, cutoff, served[-2].model_version if served[1:] else None)


def _offline(run_id: str) -> Mapping[str, float]:
    return runs.evaluation_of(run_id).get("test", {})
