"""What came of what was shown, whether something is wrong, and what follows."""

from typing import Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Counts what came of each list (clicks, carts, purchases) into the day it was shown, finds machines among the visitors,
and judges by the rules of `recsys_tasks/monitoring/monitors.toml` (or `RECSYS_MONITOR_RULES`): the version that serves
against the arms of the running experiment, its click-through against the week before, and what users do against the
time that it learned from. What holds is an alarm, which says why; it may take the version back, hold promotions, or
start a training from the start. At the end the report (`RECSYS_HOME/report.html`, and with the run of the version
that serves) is made anew.

**Reads** `events`, the running experiment (`RECSYS_EXPERIMENT_FILE`). **Writes** `request_outcomes`, `online_metrics`,
`flagged_visitors`, `alarms`, the versions' metrics in MLflow, on a roll back the endpoints and aliases, and the asset
`retraining` if a training is asked for.

### Run it again
Always safe: a day is counted anew only if something of it changed. What an alarm asks for is noted as done after it is
done, so that a kill loses nothing; a rollback that is done already is not done again.

### When it fails
* `UnavailableError` in `react`: an endpoint does not answer; those that do went back, and `reconcile_champion` does the
  rest.
* `UnavailableError` elsewhere: the warehouse or MLflow does not answer; the task is tried again.
* `ConfigurationError`: the rules are wrong; the message names the key.
* `InputError`: the experiment file is wrong; the message says where.
"""


@loop.recsys_dag(
    DOC,
    schedule=[loop.EVENTS],
    tags=["warehouse", "serving", "tier:1"],
)
def monitor_feedback() -> None:
    @task(pool=loop.POOL)
    @loop.step
    def attribute_outcomes() -> int:
        from recsys_tasks.steps import monitoring

        counted = monitoring.attribute_outcomes()
        loop.note(f"{counted.requests:,} requests of {len(counted.days)} days, {counted.machines} machines")
        return counted.requests

    @task
    @loop.step
    def check_monitors() -> list[str]:
        from recsys_tasks.steps import monitoring

        holds = [f"{found.rule.name}: {found.explanation}" for found in monitoring.check_monitors() if found.fires]
        loop.note("; ".join(holds) or "no monitor fires")
        return holds

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
        loop.note(reaction.summary)
        return {"alarms": reaction.alarm_ids, "why": reaction.retrain_reason}

    @task(outlets=[loop.RETRAINING])
    @loop.step
    def request_retraining(asked: dict[str, Any], outlet_events: Any = None) -> None:
        if not asked["alarms"]:
            raise AirflowSkipException("No alarm asks for it")
        outlet_events[loop.RETRAINING].extra = {"alarm": asked["why"]}

    @task
    @loop.step
    def mark_retraining(asked: dict[str, Any]) -> None:
        """In a task of its own: Airflow emits the asset event when the task before this one has ended well."""
        from recsys_tasks.steps import monitoring

        monitoring.mark_retraining(asked["alarms"])

    @task
    @loop.step
    def write_report() -> list[str]:
        from recsys_tasks.steps import monitoring

        written = monitoring.report()
        if written is None:
            raise AirflowSkipException("Nothing was shown so far")
        loop.note(" ".join(written.report.headlines))
        return written.report.headlines

    asked = react()
    attribute_outcomes() >> check_monitors() >> [notify(), asked]
    request_retraining(asked) >> mark_retraining(asked)
    asked >> write_report()


monitor_feedback()
