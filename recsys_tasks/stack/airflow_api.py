"""Client of the parts of Airflow's REST API that the stack uses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

DAGS = (
    "maintain_warehouse",
    "monitor_sources",
    "reconcile_champion",
    "monitor_feedback",
    "collect_feedback",
    "promote_model",
    "train_model",
    "build_features",
    "ingest_landing",
    "ingest_events",
)
_ACTIVE = ("queued", "running")


@dataclass(frozen=True)
class DagRun:
    """Run of a DAG; its state is queued, running, success or failed."""

    dag_id: str
    run_id: str
    state: str
    seconds: float
    queued_at: datetime

    @property
    def is_active(self) -> bool:
        """Whether the run has not ended."""
        return self.state in _ACTIVE


class AirflowClient:
    """Client of an Airflow API server."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60, transport=httpx.HTTPTransport(retries=3))

    def is_ready(self) -> bool:
        """Whether the API server and the scheduler are healthy and all DAGs are parsed."""
        try:
            health = self._http.get("/api/v2/monitor/health").json()
            if health["scheduler"]["status"] != "healthy" or health["metadatabase"]["status"] != "healthy":
                return False
            token = self._http.get("/auth/token").json()["access_token"]
            self._http.headers["Authorization"] = f"Bearer {token}"
            known = {found["dag_id"] for found in self._http.get("/api/v2/dags").json()["dags"]}
        except (httpx.HTTPError, KeyError, ValueError):
            return False
        return known >= set(DAGS)

    def unpause(self, dag_id: str) -> None:
        """Unpauses a DAG."""
        self._http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()

    def trigger(self, dag_id: str, **params: object) -> None:
        """Triggers a run with params."""
        body = {"logical_date": None, "conf": params}
        self._http.post(f"/api/v2/dags/{dag_id}/dagRuns", json=body).raise_for_status()

    def list_runs(self) -> list[DagRun]:
        """Returns the latest runs of all DAGs, newest first."""
        answer = self._http.get("/api/v2/dags/~/dagRuns", params={"order_by": "-id", "limit": 100})
        answer.raise_for_status()
        return [
            DagRun(run["dag_id"], run["dag_run_id"], run["state"], float(run["duration"] or 0), _time(run["queued_at"]))
            for run in answer.json()["dag_runs"]
        ]

    def describe_failure(self, run: DagRun) -> str:
        """Returns the errors that the failed tasks of a run logged."""
        path = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances"
        lines: list[str] = []
        for task in self._http.get(path).json()["task_instances"]:
            if task["state"] != "failed":
                continue
            log = self._http.get(
                f"{path}/{task['task_id']}/logs/{task['try_number']}",
                params={"full_content": "true"},
                headers={"Accept": "application/json"},
            ).json()
            for entry in log.get("content", []):
                details = (entry.get("error_detail") if isinstance(entry, dict) else None) or []
                lines += [f"{detail['exc_type']}: {detail['exc_value']}" for detail in details]
            lines.append(f"(task {task['task_id']} of {run.run_id})")
        return "\n".join(lines)


def _time(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.now(UTC)
