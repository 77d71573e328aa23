"""Attributes outcomes, runs the monitors, and carries out the actions of alarms."""

from typing import Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Attributes outcomes (clicks, carts, purchases) to impressions and to the day of the impression, and flags bots. Runs
the monitors in `recsys_tasks/monitoring/monitors.toml` (or `RECSYS_MONITOR_RULES`): the served version against the
arms of the running experiment, its click-through rate against the week before, and user behavior against the time
that it learned from. A monitor that fires opens an alarm with an explanation; an alarm can roll back the version, hold
promotions, or start a training from scratch. At the end, rewrites the report (`RECSYS_STORE/report.html`, also logged
to the run of the served version).

**Reads** `events`, the running experiment (`RECSYS_EXPERIMENT_FILE`). **Writes** `request_outcomes`, `online_metrics`,
`bot_visitors`, `alarms`, the versions' metrics in MLflow, on a rollback the endpoints and aliases, and the asset
`retraining` if an alarm asks for a training.

### Run it again
Always safe: a day is counted again only if its events changed. An alarm's action is marked as done after it ends, so an
interrupted action is repeated; a rollback that is done is not repeated.

### When it fails
* `UnavailableError` in `react`: an endpoint does not answer. The others are rolled back; `reconcile_champion` completes
  the rollback.
* `UnavailableError` elsewhere: the warehouse or MLflow does not answer. Airflow retries the task.
* `ConfigurationError`: the monitor rules are invalid. The message names the key.
* `InputError`: the experiment file is invalid. The message names the place.
"""


@loop.recsys_dag(
    DOC,
    schedule=[loop.EVENTS],
    tags=["warehouse", "serving", "tier:1"],
)
def monitor_feedback() -> None:
    @task(inlets=[loop.EVENTS], **loop.WAREHOUSE_TASK)
    @loop.step
    def attribute_outcomes() -> int:
        from recsys_tasks.steps import monitoring

        report = monitoring.attribute_outcomes()
        loop.add_note(f"{report.requests:,} requests of {len(report.days)} days, {report.bots} bots")
        return report.requests

    @task
    @loop.step
    def check_monitors() -> list[str]:
        from recsys_tasks.steps import monitoring

        findings = [finding for finding in monitoring.check_monitors() if finding.fires]
        lines = [f"{finding.rule.name}: {finding.explanation}" for finding in findings]
        loop.add_note("; ".join(lines) or "no monitor fires")
        return lines

    @task
    @loop.step
    def notify() -> int:
        from recsys_tasks.steps import monitoring

        return monitoring.notify(loop.on_alarm)

    @task
    @loop.step
    def react() -> dict[str, Any]:
        from recsys_tasks.steps import monitoring

        reaction = monitoring.react()
        loop.add_note(reaction.summary)
        return {"alarms": reaction.alarm_ids, "why": reaction.retrain_reason}

    @task(outlets=[loop.RETRAINING])
    @loop.step
    def request_retraining(reaction: dict[str, Any], outlet_events: Any = None) -> None:
        if not reaction["alarms"]:
            raise AirflowSkipException("No alarm asks for a retraining")
        outlet_events[loop.RETRAINING].extra = {"alarm": reaction["why"]}

    @task
    @loop.step
    def mark_retraining(reaction: dict[str, Any]) -> None:
        """A separate task: Airflow emits the asset event only after `request_retraining` has succeeded."""
        from recsys_tasks.steps import monitoring

        monitoring.mark_retraining(reaction["alarms"])

    @task
    @loop.step
    def write_report() -> list[str]:
        from recsys_tasks.steps import monitoring

        written = monitoring.report()
        if written is None:
            raise AirflowSkipException("There are no impressions yet")
        loop.add_note(" ".join(written.report.headlines))
        return written.report.headlines

    reaction = react()
    attribute_outcomes() >> check_monitors() >> [notify(), reaction]
    request_retraining(reaction) >> mark_retraining(reaction)
    reaction >> write_report()


monitor_feedback()
