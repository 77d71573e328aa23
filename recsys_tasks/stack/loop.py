"""Walks the loop once through Airflow and watches it; starts from wherever an earlier start got to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from rich.console import Console
from sqlalchemy import Engine, text

from recsys_tasks.errors import InvariantError
from recsys_tasks.registry import runs
from recsys_tasks.stack.airflow_api import DAGS, Airflow, DagRun
from recsys_tasks.stack.processes import Processes
from recsys_tasks.steps import ingestion, monitoring
from recsys_tasks.steps.simulation import simulate

_POLL_SECONDS = 2.0
_QUIET_SECONDS = 12.0
_LATE_HOURS = 6
_EPOCH_SECONDS = 15.0
_SESSIONS, _SHOPPERS = 400, 1_000


@dataclass
class Walk:
    """One walk through the loop: what it watches, and what it noted on the way."""

    airflow: Airflow
    processes: Processes
    console: Console
    warehouse: Engine
    replay_from: datetime
    stages: list[tuple[str, float]] = field(default_factory=list)
    _asked_at: float = 0.0
    _seen: set[tuple[str, str, str]] = field(default_factory=set)

    def go(self) -> None:
        """Ingest, train and promote; shop; collect; train and promote again; shop once more. Skips what is done.

        Raises:
            InvariantError: a DAG run failed, or the loop came to rest without its result.
        """
        self.begin()
        self.settle("first pass", "ingest_events", lambda: self._promoted() > 0)
        if self._feedback_in_warehouse() == 0:
            self._shop(0)
        if not self._judged_with_feedback():
            if self._feedback_in_warehouse() == 0:
                self.airflow.trigger("collect_feedback")
            self.settle(
                "second pass",
                "collect_feedback",
                self._judged_with_feedback,
            )
        if not self._shopped_on(1):
            self._shop(1)
            ingestion.load_feedback(ingestion.fetch_feedback())
            monitoring.attribute_outcomes()
            monitoring.check_monitors()

    def begin(self) -> None:
        """Lets Airflow run everything; what it ran before is not told again."""
        self._seen |= {(run.dag_id, run.run_id, run.state) for run in self.airflow.runs() if not run.active}
        for dag_id in DAGS:
            self.airflow.unpause(dag_id)

    def _shop(self, day: int) -> None:
        """Lets shoppers come for a day of the scenario, which begins where the ingested events end."""
        began = time.monotonic()
        self.console.print(f"\n[bold]Shopping[/] at the endpoint, day {day + 1}: people with the habits of the data")
        found = simulate(None, self.replay_from, range(day, day + 1), _SESSIONS, _SHOPPERS)
        self._note(f"shopping, day {day + 1}", time.monotonic() - began)
        self.console.print(
            f"  {found.sessions} sessions, {found.searches} searches; {found.recommended_clicks} of"
            f" {found.recommended:,} items that were recommended were looked at; {found.purchases} things bought"
        )

    def settle(self, name: str, first_dag: str, done: Callable[[], bool]) -> None:
        """Watches until the loop has come to rest with its result; nudges it where an earlier stop broke the chain."""
        self.console.print(f"\n[bold]{name.capitalize()}[/] through Airflow")
        quiet_since = time.monotonic()
        nudged, refused = "", self._last_refusal()
        while True:
            self.processes.check()
            active = [run for run in self._watch() if run.active]
            if any(run.dag_id == "train_model" for run in active):
                self._show_epochs()
            if active:
                quiet_since = time.monotonic()
            elif done():
                return
            elif time.monotonic() - quiet_since > _QUIET_SECONDS:
                following = self._next_dag(first_dag)
                if following == nudged or self._last_refusal() != refused:
                    raise InvariantError(f"The {name} came to rest without its result. {self._last_refusal()}")
                self.console.print(f"  resuming with {following}")
                self.airflow.trigger(following)
                nudged, quiet_since = following, time.monotonic()
            time.sleep(_POLL_SECONDS)

    def _next_dag(self, first_dag: str) -> str:
        """Where a broken chain goes on: behind the last result that is there."""
        if first_dag == "collect_feedback" and self._feedback_in_warehouse() == 0:
            return "collect_feedback"
        needs_snapshot = self._count("snapshots") == 0 or (
            first_dag == "collect_feedback" and self._snapshots_with_feedback() == 0
        )
        if self._count("events") == 0:
            return "ingest_events"
        return "build_features" if needs_snapshot else "train_model"

    def _watch(self) -> list[DagRun]:
        found = self.airflow.runs()
        for run in reversed(found):
            dag_id, key = run.dag_id, (run.dag_id, run.run_id, run.state)
            if key in self._seen:
                continue
            self._seen.add(key)
            if run.state == "failed":
                raise InvariantError(f"{dag_id} failed:\n{self.airflow.failure(run)}")
            if run.state == "success":
                self._note(f"{dag_id}  {run.run_id.split('T')[0]}", run.seconds)
                self._say(f"[green]done[/]     {dag_id}  ({run.seconds:.0f} s)  {run.run_id}")
            elif run.state == "running":
                self._say(f"running  {dag_id}  {run.run_id}")
        return found

    def _show_epochs(self) -> None:
        """A line for each epoch that a running training has ended."""
        if time.monotonic() - self._asked_at < _EPOCH_SECONDS:
            return
        self._asked_at = time.monotonic()
        run_id, epochs = runs.epochs_of_latest()
        for number, (loss, measure) in enumerate(epochs, start=1):
            key = ("epoch", run_id, str(number))
            if key not in self._seen:
                self._seen.add(key)
                judged = f"MRR@20 on validation {measure:.4f}" if measure is not None else "not validated"
                self._say(f"  epoch {number}: loss {loss:.3f}, {judged}")

    def _say(self, line: str) -> None:
        self.console.print(f"  {datetime.now(UTC):%H:%M:%S}  {line}", soft_wrap=True)

    def _note(self, stage: str, seconds: float) -> None:
        self.stages.append((stage, seconds))

    def _count(self, table: str) -> int:
        return self._scalar(f"select count(*) from (select 1 from {table} limit 1000) as found")  # noqa: S608

    def _promoted(self) -> int:
        return self._scalar("select count(*) from promotions where decision = 'promoted'")

    def _last_refusal(self) -> str:
        with self.warehouse.connect() as connection:
            row = connection.execute(
                text("select * from promotions where decision = 'refused' order by promotion_id desc limit 1")
            ).one_or_none()
        return "" if row is None else f"Version {row.model_version} was refused: {'; '.join(row.reasons)}"

    def _judged_with_feedback(self) -> bool:
        """Whether the gate has judged a model that learned from the endpoint's feedback."""
        return bool(
            self._scalar(
                "select count(*) from promotions inner join snapshots on promotions.snapshot_id = snapshots.snapshot_id"
                " where decision in ('promoted', 'refused') and (manifest ->> 'feedback_events')::bigint > 0"
            )
        )

    def _shopped_on(self, day: int) -> bool:
        """Whether people came on a day of the scenario; those of the day before may stay until after midnight."""
        with self.warehouse.connect() as connection:
            last = connection.scalar(text("select max(shown_at) from request_outcomes where traffic = 'shopper'"))
        return last is not None and last >= self.replay_from + timedelta(days=day, hours=_LATE_HOURS)

    def _feedback_in_warehouse(self) -> int:
        return self._scalar("select count(*) from events where source = 'feedback'")

    def _snapshots_with_feedback(self) -> int:
        return self._scalar("select count(*) from snapshots where (manifest ->> 'feedback_events')::bigint > 0")

    def _scalar(self, query: str) -> int:
        with self.warehouse.connect() as connection:
            return int(connection.scalar(text(query)) or 0)
