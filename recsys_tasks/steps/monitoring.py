"""After each collection of feedback: what came of what was shown, whether something is wrong, and what follows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
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
_FROM_THE_START, _GONE = "training from the start", "the version does not serve any more"


class Reaction(NamedTuple):
    """What followed: the version that serves again, and the alarms for which to train from the start."""

    rolled_back_to: str | None
    retrain: list[monitors.Alarm]

    @property
    def why_retrain(self) -> str:
        """What asks for a training from the start, in words."""
        return "; ".join(f"{alarm.rule}: {alarm.explanation}" for alarm in self.retrain)

    @property
    def words(self) -> str:
        """What followed, in words."""
        back = f"version {self.rolled_back_to} serves again" if self.rolled_back_to else ""
        return back or self.why_retrain or "nothing is to be done"

    @property
    def asking(self) -> list[int]:
        """The ids of the alarms that ask for it."""
        return [alarm.alarm_id for alarm in self.retrain]


def count() -> attribution.Counted:
    """Counts the days whose outcomes may have changed, and tells MLflow what came of each version."""
    chosen = settings()
    rules = attribution.CountingRules(chosen.attribution_hours, chosen.max_human_requests_per_minute)
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
        found = monitors.judge(connection, monitors.read_rules(settings().monitor_rules), standing, experiment())
        monitors.write_alarms(connection, found, standing)
    for finding in found:
        log.log(logging.WARNING if finding.holds else logging.INFO, "%s: %s", finding.rule.name, finding.explanation)
    return found


def tell(send: Callable[[monitors.Alarm], bool]) -> int:
    """Tells somebody of each alarm that nobody was told of; of how many.

    Whoever is told may hear of an alarm twice, where this is killed before it notes that it has told, but of each one.

    Args:
        send: tells of an alarm; whether that came through.
    """
    with engine().connect() as connection:
        alarms = monitors.untold_alarms(connection)
    for told, alarm in enumerate(alarms):
        if not send(alarm):
            return told  # the others would not come through either; the next time begins here
        with engine().begin() as connection:
            monitors.note_told(connection, alarm.alarm_id)
    return len(alarms)


def react() -> Reaction:
    """Takes back the version that serves if open alarms ask for it, and finds those that ask for a training.

    What was done is noted after it is done, and what is done already is not done again, so it goes on from wherever it
    was killed. A training is asked for by whoever calls this, who says so to `note_retraining` then; until that, it is
    found again each time. An alarm about a version that does not serve any more asks for nothing: a version that is
    taken back is not what the world has changed about, and then nothing is trained anew.

    Raises:
        UnavailableError: as `promoting.rollback`.
    """
    with engine().connect() as connection:
        due = [alarm for alarm in monitors.open_alarms(connection) if alarm.acted_at is None]
    back = _roll_back([alarm for alarm in due if alarm.action == monitors.ROLL_BACK])
    served = deployment_record.standing(engine()).served
    retrain = []
    for alarm in due:
        if alarm.action != monitors.RETRAIN:
            continue
        if served and alarm.model_version == served[-1].model_version:
            retrain.append(alarm)
        else:
            _note(alarm, _GONE)
    return Reaction(back, retrain)


def note_retraining(alarm_ids: Sequence[int]) -> None:
    """Notes that the training which alarms asked for was asked for."""
    with engine().begin() as connection:
        for alarm_id in alarm_ids:
            monitors.note_acted(connection, alarm_id, _FROM_THE_START)


def experiment() -> Experiment | None:
    """The experiment that the endpoints run, as the settings name it."""
    return read_experiment(settings().experiment_file)


def _roll_back(alarms: list[monitors.Alarm]) -> str | None:
    served = deployment_record.standing(engine()).served
    serving = served[-1].model_version if served else None
    for alarm in alarms:
        if alarm.model_version != serving:
            _note(alarm, _GONE)
    against = [alarm for alarm in alarms if alarm.model_version == serving]
    if not against:
        return None
    why = "; ".join(f"{alarm.rule}: {alarm.explanation}" for alarm in against)
    back = rollback(why, "the watch over feedback", serving) if len(served) > 1 else None
    for alarm in against:
        _note(alarm, f"rolled back to version {back}" if back else "there is no version before it to go back to")
    return back


def _note(alarm: monitors.Alarm, outcome: str) -> None:
    log.warning("%s: %s", alarm.rule, outcome)
    with engine().begin() as connection:
        monitors.note_acted(connection, alarm.alarm_id, outcome)


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
    rules = monitors.read_rules(settings().monitor_rules)
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
