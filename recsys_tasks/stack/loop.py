"""Runs the loop once through Airflow and reports its progress; resumes where an earlier start stopped."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from rich.console import Console
from sqlalchemy import Engine, text

from recsys_tasks.errors import InvariantError
from recsys_tasks.promotion.deployment_record import read_state
from recsys_tasks.registry import runs
from recsys_tasks.settings import settings
from recsys_tasks.stack.airflow_api import DAGS, AirflowClient, DagRun
from recsys_tasks.stack.live_view import LiveView
from recsys_tasks.stack.processes import StackProcesses
from recsys_tasks.stack.starter import last_whole_week
from recsys_tasks.steps import features, ingestion, monitoring
from recsys_tasks.steps.simulation import simulate

_POLL_INTERVAL_SECONDS = 2.0
_MAX_IDLE_SECONDS = 12.0
_SESSION_OVERHANG_HOURS = 6
_EPOCH_POLL_INTERVAL_SECONDS = 15.0
_SESSIONS, _SHOPPERS = 400, 1_000
_NUM_PHASES = 5
_NEVER = 1 << 62  # above every change number
_STARTER_POLL_INTERVAL_SECONDS = 0.5


@dataclass
class LoopRunner:
    """State of one run of the loop: its clients, the stages with their durations, and the DAG runs already reported.

    Attributes:
        starter: process that serves the first lists.
        stages: completed stages with their seconds.
    """

    airflow: AirflowClient
    processes: StackProcesses
    starter: subprocess.Popen[bytes]
    console: Console
    warehouse: Engine
    replay_from: datetime
    stages: list[tuple[str, float]] = field(default_factory=list)
    _epochs_shown_at: float = 0.0
    _seen: set[tuple[str, str, str]] = field(default_factory=set)
    _durations: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._view = LiveView(self.console, _NUM_PHASES)

    def run(self) -> None:
        """Serves first lists; ingests, trains and promotes; simulates a day; trains on its feedback and promotes;
        simulates another day. Skips completed stages.

        Raises:
            InvariantError: a DAG run failed, or the loop stopped without its result.
        """
        with self._view:
            self._run_phases()

    def _run_phases(self) -> None:
        self._await_first_lists()
        self._view.complete_phase()
        self.unpause_dags()
        self.run_until("first pass", "ingest_events", self._serves_trained_version)
        self._view.complete_phase()
        if not self._has_feedback():
            self._simulate_day(0)
        self._view.complete_phase()
        if not self._has_decision_with_feedback():
            if not self._has_feedback():
                self.airflow.trigger("collect_feedback")
            self.run_until(
                "second pass",
                "collect_feedback",
                self._has_decision_with_feedback,
            )
        self._view.complete_phase()
        if not self._has_traffic_on(1):
            self._simulate_day(1)
            ingestion.load_feedback(ingestion.fetch_feedback())
            monitoring.attribute_outcomes()
            monitoring.check_monitors()
        self._view.complete_phase()

    def _await_first_lists(self) -> None:
        started_at = time.monotonic()
        self._view.start_stage("first lists")
        while self.starter.poll() is None:
            self.processes.check()
            time.sleep(_STARTER_POLL_INTERVAL_SECONDS)
        self._view.finish_stage("first lists")
        if self.starter.returncode:
            self._print(f"[yellow]No lists before the first training: see the end of {self.processes.log}[/]")
        elif not self._serves_trained_version():
            self._record_stage("first lists", time.monotonic() - started_at)
            self._print("The storefront shows lists, by content and popularity until the first training ends")

    def unpause_dags(self) -> None:
        """Unpauses the DAGs of the loop, not those that a person triggers; does not report earlier runs."""
        self._seen |= {(run.dag_id, run.run_id, run.state) for run in self.airflow.list_runs() if not run.is_active}
        for dag_id in DAGS:
            self.airflow.unpause(dag_id)

    def _simulate_day(self, day: int) -> None:
        """Simulates shoppers for a day of the scenario; day 0 starts where the ingested events end."""
        started_at = time.monotonic()
        self.console.print(
            f"\n[bold]Simulated shopping[/] at the endpoint, day {day + 1}: shoppers with the needs of the data"
        )
        self._view.start_stage(f"day {day + 1}")
        found = simulate(None, self.replay_from, range(day, day + 1), _SESSIONS, _SHOPPERS)
        self._view.finish_stage(f"day {day + 1}")
        self._record_stage(f"simulated shopping, day {day + 1}", time.monotonic() - started_at)
        self.console.print(
            f"  {found.sessions} sessions, {found.searches} searches; {found.recommended_clicks} of"
            f" {found.recommended:,} recommended items were clicked; {found.purchases} items were bought"
        )

    def run_until(self, name: str, first_dag: str, done: Callable[[], bool]) -> None:
        """Waits until the loop is idle with its result; triggers the next DAG of a chain that an earlier stop broke."""
        self.console.print(f"\n[bold]{name.capitalize()}[/] through Airflow")
        idle_since = time.monotonic()
        resumed_dag, previous_refusal = "", self._last_refusal()
        while True:
            self.processes.check()
            self._view.refresh()
            active = [run for run in self._report_new_runs() if run.is_active]
            if any(run.dag_id == "train_model" for run in active):
                self._show_epochs()
            if active:
                idle_since = time.monotonic()
            elif done():
                return
            elif time.monotonic() - idle_since > _MAX_IDLE_SECONDS:
                following = self._next_dag(first_dag)
                if following == resumed_dag or self._last_refusal() != previous_refusal:
                    raise InvariantError(f"The {name} stopped without its result. {self._last_refusal()}")
                self.console.print(f"  resuming with {following}")
                self.airflow.trigger(following)
                resumed_dag, idle_since = following, time.monotonic()
            time.sleep(_POLL_INTERVAL_SECONDS)

    def _next_dag(self, first_dag: str) -> str:
        """Returns the DAG that follows the last result."""
        if first_dag == "collect_feedback":
            if not self._has_feedback():
                return "collect_feedback"
            return "train_model" if self._has_snapshot_with_feedback() else "build_features"
        if not self._has_history():
            return "ingest_events"
        return "build_features" if features.has_unbuilt_changes() else "train_model"

    def _report_new_runs(self) -> list[DagRun]:
        found = self.airflow.list_runs()
        for run in reversed(found):
            dag_id, key = run.dag_id, (run.dag_id, run.run_id, run.state)
            if key in self._seen:
                continue
            self._seen.add(key)
            if not run.is_active:
                self._view.finish_stage(dag_id)
            if run.state == "failed":
                raise InvariantError(f"{dag_id} failed:\n{self.airflow.describe_failure(run)}")
            if run.state == "success":
                self._record_stage(f"{dag_id}  {run.run_id.split('T')[0]}", run.seconds)
                self._durations[dag_id] = run.seconds
                self._print(f"[green]done[/]     {dag_id}  ({run.seconds:.0f} s)  {run.run_id}")
            elif run.state == "running":
                self._view.start_stage(dag_id, self._expected_seconds(dag_id))
                self._print(f"running  {dag_id}  {run.run_id}")
        return found

    def _expected_seconds(self, dag_id: str) -> float | None:
        """Returns the duration of the DAG's last run, before the first training its time budget."""
        budget = settings().training_seconds if dag_id == "train_model" else None
        return self._durations.get(dag_id, budget)

    def _show_epochs(self) -> None:
        """Prints a line for each completed epoch of a running training."""
        if time.monotonic() - self._epochs_shown_at < _EPOCH_POLL_INTERVAL_SECONDS:
            return
        self._epochs_shown_at = time.monotonic()
        run_id, epochs = runs.load_latest_epochs()
        for number, (loss, metric) in enumerate(epochs, start=1):
            key = ("epoch", run_id, str(number))
            if key not in self._seen:
                self._seen.add(key)
                validated = f"MRR@20 on validation {metric:.4f}" if metric is not None else "not validated"
                self._print(f"  epoch {number}: loss {loss:.3f}, {validated}")

    def _print(self, line: str) -> None:
        self.console.print(f"  {datetime.now(UTC):%H:%M:%S}  {line}", soft_wrap=True)

    def _record_stage(self, stage: str, seconds: float) -> None:
        self.stages.append((stage, seconds))

    def _has_history(self) -> bool:
        """Whether the warehouse has events before the week that the first lists are made from."""
        start = last_whole_week(self.replay_from).start
        return bool(self._scalar("select exists (select 1 from events where event_time < :start)", start=start))

    def _serves_trained_version(self) -> bool:
        served = read_state(self.warehouse).served
        return bool(served) and runs.is_trained(served[-1].run_id)

    def _last_refusal(self) -> str:
        with self.warehouse.connect() as connection:
            row = connection.execute(
                text("select * from promotions where decision = 'refused' order by promotion_id desc limit 1")
            ).one_or_none()
        return "" if row is None else f"Version {row.model_version} was refused: {'; '.join(row.reasons)}"

    def _has_decision_with_feedback(self) -> bool:
        """Whether the gate has decided on a model trained on the simulated shoppers' feedback."""
        return bool(
            self._scalar(
                "select count(*) from promotions inner join snapshots on promotions.snapshot_id = snapshots.snapshot_id"
                " where decision in ('promoted', 'refused') and as_of_change >= :change",
                change=self._first_feedback_change(),
            )
        )

    def _has_traffic_on(self, day: int) -> bool:
        """Whether shoppers came on a day of the scenario; sessions of the previous day may end after midnight."""
        start = self.replay_from + timedelta(days=day, hours=_SESSION_OVERHANG_HOURS)
        return bool(
            self._scalar(
                "select count(*) from request_outcomes"
                " where traffic = 'shopper' and shown_at >= :start and shown_at < :end",
                start=start,
                end=start + timedelta(days=1),
            )
        )

    def _has_feedback(self) -> bool:
        return self._first_feedback_change() < _NEVER

    def _has_snapshot_with_feedback(self) -> bool:
        return bool(
            self._scalar(
                "select count(*) from snapshots where as_of_change >= :change", change=self._first_feedback_change()
            )
        )

    def _first_feedback_change(self) -> int:
        """Returns the change of the warehouse that loaded the first simulated feedback.

        Only feedback of the scenario's first day: people may use the storefront meanwhile, today.
        """
        query = (
            "select min(batch_days.change_number) from batch_days"
            " inner join batches on batch_days.change_number = batches.change_number"
            " where batches.source = 'feedback' and batch_days.day = :day"
        )
        return self._scalar(query, day=self.replay_from.astimezone(UTC).date()) or _NEVER

    def _scalar(self, query: str, **parameters: object) -> int:
        with self.warehouse.connect() as connection:
            return int(connection.scalar(text(query), parameters) or 0)
