"""After each collection of feedback: attribution, monitors, alarms and their actions, and the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from recsys_tasks.experiments.definition import Experiment, read_experiment
from recsys_tasks.experiments.stored_results import update_results
from recsys_tasks.features.snapshot import find_snapshot
from recsys_tasks.feedback import attribution
from recsys_tasks.monitoring import reactions
from recsys_tasks.monitoring.alarms import Alarm, write_alarms
from recsys_tasks.monitoring.monitors import Finding, ServedModel, run_monitors, serving_period
from recsys_tasks.monitoring.rules import read_rules
from recsys_tasks.promotion.deployment_record import DeployedVersion, read_state
from recsys_tasks.settings import settings
from recsys_tasks.storage.folder import StoredFile
from recsys_tasks.warehouse import engine

if TYPE_CHECKING:
    from recsys_tasks.monitoring.report import MonitoringReport

log = logging.getLogger(__name__)
REPORT = "report.html"
_ROLLED_BACK_BY = "monitoring"


def attribute_outcomes() -> attribution.AttributionReport:
    """Attributes outcomes to impressions on every day that changed; stores the results of experiments, and logs online
    metrics to MLflow."""
    chosen = settings()
    rules = attribution.AttributionRules(chosen.attribution_hours, chosen.max_human_requests_per_minute)
    counted = attribution.attribute_days(engine(), rules)
    with engine().begin() as connection:
        update_results(connection, serving_period, experiment())
    if counted.requests:
        from recsys_tasks.monitoring.mlflow_metrics import log_online_metrics  # slow import (seconds), as those below

        log_online_metrics(engine())
    return counted


def evaluate_monitors() -> list[Finding]:
    """Returns the monitors' findings and writes nothing; empty without a promoted version."""
    served = read_state(engine()).served
    if not served:
        return []
    with engine().connect() as connection:
        return run_monitors(connection, read_rules(settings().monitor_rules), _served_model(served), experiment())


def check_monitors() -> list[Finding]:
    """Runs the monitors; opens, updates and closes alarms by what they find."""
    served = read_state(engine()).served
    if not served:
        return []
    model = _served_model(served)
    with engine().begin() as connection:
        findings = run_monitors(connection, read_rules(settings().monitor_rules), model, experiment())
        write_alarms(connection, findings, model)
    for finding in findings:
        log.log(logging.WARNING if finding.fires else logging.INFO, "%s: %s", finding.rule.name, finding.explanation)
    return findings


def notify(send: Callable[[Alarm], bool]) -> int:
    """Sends the alarms that nobody was notified of; returns how many were delivered."""
    return reactions.notify(engine(), send)


def react() -> reactions.Reaction:
    """Carries out rollbacks that open alarms ask for, and finds those that ask for a retraining."""

    def roll_back(reason: str, bad_version: str) -> str:
        from recsys_tasks.promotion import rollback
        from recsys_tasks.promotion.deployment import Deployment

        deployment = Deployment(engine(), settings())
        return rollback.roll_back(deployment, reason, _ROLLED_BACK_BY, bad_version)

    return reactions.react(
        engine(), lambda: [version.model_version for version in read_state(engine()).served], roll_back
    )


def mark_retraining(alarm_ids: Sequence[int]) -> None:
    """Records that the retraining which alarms asked for was started."""
    reactions.mark_retraining(engine(), alarm_ids)


def experiment() -> Experiment | None:
    """Returns the experiment that the settings name, if any."""
    return read_experiment(settings().experiment_file)


class WrittenReport(NamedTuple):
    """The report and its file."""

    file: StoredFile
    report: MonitoringReport


def report() -> WrittenReport | None:
    """Writes the report to a file and to the run of the served version; None while nothing was shown.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    from recsys_tasks.monitoring.report import build_report
    from recsys_tasks.registry import runs

    served = read_state(engine()).served
    if not served:
        return None
    rules = read_rules(settings().monitor_rules)
    with engine().connect() as connection:
        findings = run_monitors(connection, rules, _served_model(served), experiment())
        made = build_report(
            connection, findings, experiment(), lambda run_id: runs.load_evaluation(run_id).get("model", {})
        )
    if made is None:
        return None
    file, html = settings().shared_files.file(REPORT), made.html()
    file.write(html.encode())
    runs.log_text(served[-1].run_id, html, REPORT)
    return WrittenReport(file, made)


def _served_model(served: Sequence[DeployedVersion]) -> ServedModel:
    cutoff = find_snapshot(engine(), settings().snapshots, served[-1].snapshot_id).cutoff
    return ServedModel(served[-1].model_version, cutoff, served[-2].model_version if served[1:] else None)
