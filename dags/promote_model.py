"""The challenger through the gate and onto the endpoints."""

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Compares the challenger with the baselines and the champion on the same held-out sessions. If it is good enough:
builds its bundle (ONNX graphs, histories, checksums, golden requests with their answers), puts it on every
endpoint of `RECSYS_ENDPOINT_URLS`, checks what they answer, and only then moves the alias `champion`.

**Reads** MLflow, the version's snapshot. **Writes** the endpoints, the aliases, the version's tags, a row of
`promotions`, and the asset `champion`.

### Run it again
Always safe: a bundle is known by its content, and one that serves already is left alone. A certain version:
trigger it with `{"version": "7"}`. Back to the one before: `python -m recsys_tasks rollback`.

### When it fails
The old champion serves everywhere, whatever failed.
* `judge` is *skipped onward*: the gate refused; its log and `promotions.reasons` have every number.
* `PushFailed`: an endpoint refused the bundle or answers otherwise than it should; those that had taken it were
  put back.
* `UnavailableError`: an endpoint does not answer; the task is tried again.
* `ConfigurationError`: `RECSYS_ADMIN_TOKEN` differs from the endpoint's.
"""


@dag(
    schedule=[loop.CHALLENGER_VERSION],
    max_active_runs=1,
    default_args=loop.DEFAULT_ARGS,
    on_failure_callback=loop.on_failure,
    deadline=loop.deadline("promote_model", timedelta(hours=1)),
    params={"version": Param(None, type=["null", "string"], description="default: what started the run")},
    doc_md=DOC,
    tags=["model", "serving"],
)
def promote_model() -> None:
    @task(multiple_outputs=False)
    @loop.step
    def judge(params: Any = None, triggering_asset_events: Any = None) -> dict[str, Any]:
        from recsys_tasks.steps import promoting

        wanted = params["version"] or loop.from_event(triggering_asset_events, "version")
        number, decision = promoting.judge(wanted)
        loop.note(f"version {number}: {'; '.join(decision.reasons)}")
        if not decision.promote:
            raise AirflowSkipException(f"Version {number} is refused: {'; '.join(decision.reasons)}")
        return {"version": number, "reasons": decision.reasons}

    @task(multiple_outputs=False)
    @loop.step
    def build(approved: dict[str, Any]) -> dict[str, Any]:
        from recsys_tasks.steps import promoting

        return approved | {"bundle": str(promoting.bundle(approved["version"]))}

    @task(outlets=[loop.CHAMPION_VERSION])
    @loop.step
    def activate(built: dict[str, Any], outlet_events: Any = None) -> str:
        from pathlib import Path

        from recsys_tasks.steps import promoting

        promoting.activate(built["version"], Path(built["bundle"]), built["reasons"])
        outlet_events[loop.CHAMPION_VERSION].extra = {"version": built["version"]}
        return built["version"]

    activate(build(judge()))


promote_model()
