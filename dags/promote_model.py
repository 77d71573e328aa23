"""The challenger through the gate and onto the endpoints."""

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

DOC = """
### What it does
Builds the challenger's bundle (ONNX graphs, histories, checksums, golden requests with their answers), compares it
with the baselines and the champion on the same held-out sessions, and judges it by the rules of the gate
(`recsys_tasks/evaluation/gate.toml`, or `RECSYS_GATE_RULES`). If it is good enough, and with
`RECSYS_APPROVAL=person` somebody agrees under *Required actions*: puts the bundle on every endpoint of
`RECSYS_ENDPOINT_URLS`, checks what they answer, and only then moves the alias `champion`.

**Reads** MLflow, the version's snapshot. **Writes** the endpoints, the aliases, the version's tags, a row of
`promotions`, and the asset `champion`.

### Run it again
Always safe: a bundle is known by its content, and one that serves already is left alone. A certain version:
trigger it with `{"version": "7"}`. Back to the one before: `python -m recsys_tasks rollback`.

### When it fails
The old champion serves everywhere, whatever failed.
* `judge` is *skipped*: the gate refused; its log, `promotions.evidence` and the run's `decision.md` have every number.
* `activate` is *skipped*: somebody rejected the version, or nobody answered in time; `promotions.reasons` says who.
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
    def build(params: Any = None, triggering_asset_events: Any = None) -> dict[str, Any]:
        from recsys_tasks.steps import promoting

        wanted = params["version"] or loop.from_event(triggering_asset_events, "version")
        number, folder = promoting.build(wanted)
        return {"version": number, "bundle": str(folder)}

    @task(multiple_outputs=False)
    @loop.step
    def judge(built: dict[str, Any]) -> dict[str, Any]:
        from pathlib import Path

        from recsys_tasks.steps import promoting

        decision = promoting.judge(built["version"], Path(built["bundle"]))
        loop.note(f"version {built['version']}: {'; '.join(decision.reasons)}")
        if not decision.promote:
            raise AirflowSkipException(f"Version {built['version']} is refused: {'; '.join(decision.reasons)}")
        evidence = {"evidence": decision.as_dict(), "shown": decision.as_markdown()}
        return {**built, "reasons": decision.reasons, **evidence}

    @task(outlets=[loop.CHAMPION_VERSION])
    @loop.step
    def activate(judged: dict[str, Any], answer: Any = None, outlet_events: Any = None) -> str:
        from pathlib import Path

        from recsys_tasks.steps import promoting

        version, evidence, who = judged["version"], judged["evidence"], promoting.AUTOMATIC
        if answer is not None:
            yes, who = loop.read_answer(answer)
            if not yes:
                promoting.reject(version, judged["reasons"], who, evidence)
                raise AirflowSkipException(f"Version {version} was rejected by {who}")
        promoting.activate(version, Path(judged["bundle"]), judged["reasons"], who, evidence)
        outlet_events[loop.CHAMPION_VERSION].extra = {"version": version}
        return version

    judged = judge(build())
    if settings().approval == "person":
        approve = loop.asked_person()
        judged >> approve
        activate(judged, approve.output)
    else:
        activate(judged)


promote_model()
