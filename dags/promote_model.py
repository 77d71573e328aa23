"""The challenger through the gate and onto the endpoints."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

DOC = """
### What it does
Builds the challenger's bundle (ONNX graphs, histories, checksums, golden requests with their answers), compares it
with the baselines and the champion on the same held-out sessions, and judges it by the rules of the gate
(`recsys_tasks/evaluation/gate.toml`, or `RECSYS_GATE_RULES`). If it is good enough, and with
`RECSYS_APPROVAL=person` somebody agrees under *Required actions*: stages the bundle beside what serves, on every
endpoint of `RECSYS_ENDPOINT_URLS`, each of which checks and measures it; with `RECSYS_SHADOW_SHARE` or
`RECSYS_CANARY_SHARE` tries it there first; then lets it serve on all of them or on none, and moves the alias
`champion`.

**Reads** MLflow, the version's snapshot. **Writes** the endpoints, the aliases, the version's tags, a row of
`promotions`, and the asset `champion`.

### Run it again
Always safe: a bundle is known by its content, and one that serves already is left alone. A certain version:
trigger it with `{"version": "7"}`. Back to the one before: `python -m recsys_tasks rollback`.

### When it fails
The old champion serves everywhere, whatever failed.
* `check_gate` is *skipped*: the gate refused; its log, `promotions.evidence` and the run's `decision.md` have every number.
* `record_approval` is *skipped*: somebody rejected the version, or nobody answered in time; `promotions.reasons` says who.
* `PushFailed`: an endpoint refused the bundle or answers otherwise than it should; those that had taken it were
  put back.
* `await_rollout` fails with `RolloutFailed`: errors, slow answers or fewer clicks beside the champion; it is withdrawn.
* `UnavailableError`: an endpoint or MLflow does not answer, or another promotion is under way; the task is tried again.
* `ConfigurationError`: `RECSYS_ADMIN_TOKEN` is not set or differs from the endpoint's, or the gate's rules are wrong.
* `InputError`: there is no challenger or no such version, or its run or snapshot is gone; train a model.
* `BundleUnusable` or `GoldenMismatch` in `build_bundle` or `check_gate`: the bundle cannot be used here; train anew.
"""


@task(multiple_outputs=False)
@loop.step
def build_bundle(params: Any = None, triggering_asset_events: Any = None) -> dict[str, Any]:
    from recsys_tasks.steps import promotion

    wanted = params["version"] or loop.from_event(triggering_asset_events, "version")
    number, folder = promotion.build(wanted)
    return {"version": number, "bundle": str(folder)}


@task(multiple_outputs=False)
@loop.step
def check_gate(built: dict[str, Any]) -> dict[str, Any]:
    from recsys_tasks.steps import promotion

    decision = promotion.judge(built["version"], Path(built["bundle"]))
    loop.note(f"version {built['version']}: {'; '.join(decision.reasons)}")
    if not decision.promote:
        raise AirflowSkipException(f"Version {built['version']} is refused: {'; '.join(decision.reasons)}")
    evidence = {"evidence": decision.as_dict(), "shown": decision.as_markdown()}
    return {**built, "reasons": decision.reasons, "approved_by": promotion.AUTOMATIC, **evidence}


@task(multiple_outputs=False)
@loop.step
def record_approval(judged: dict[str, Any], answer: Any = None) -> dict[str, Any]:
    from recsys_tasks.steps import promotion

    yes, who = loop.read_answer(answer)
    if not yes:
        promotion.reject(judged["version"], judged["reasons"], who, judged["evidence"])
        raise AirflowSkipException(f"Version {judged['version']} was rejected by {who}")
    return {**judged, "approved_by": who}


@task(multiple_outputs=False)
@loop.step
def start_rollout(agreed: dict[str, Any]) -> dict[str, Any]:
    from recsys_tasks.steps import promotion

    began = promotion.start_rollout(
        agreed["version"], Path(agreed["bundle"]), agreed["approved_by"], agreed["evidence"]
    )
    return {**agreed, "began": began and began.isoformat()}


@task.sensor(poke_interval=60, mode="reschedule", timeout=30 * 24 * 3600.0)
@loop.step
def await_rollout(tried: dict[str, Any]) -> bool:
    from recsys_tasks.steps import promotion

    began = tried["began"] and datetime.fromisoformat(tried["began"])
    findings = promotion.check_rollout(Path(tried["bundle"]), began)
    if findings is None:
        return False
    loop.note(f"version {tried['version']} passed its rollout: {'; '.join(findings)}")
    return True


@task(outlets=[loop.CHAMPION_VERSION])
@loop.step
def activate(agreed: dict[str, Any], outlet_events: Any = None) -> str:
    from recsys_tasks.steps import promotion

    version, who = agreed["version"], agreed["approved_by"]
    promotion.activate(version, Path(agreed["bundle"]), agreed["reasons"], who, agreed["evidence"])
    outlet_events[loop.CHAMPION_VERSION].extra = {"version": version}
    return version


@loop.recsys_dag(
    DOC,
    schedule=[loop.CHALLENGER_VERSION],
    max_extra_time=timedelta(hours=1) + settings().max_promotion_wait,
    params={"version": Param(None, type=["null", "string"], description="default: what started the run")},
    tags=["model", "serving", "tier:1"],
)
def promote_model() -> None:
    agreed = check_gate(build_bundle())
    if settings().approval == "person":
        approve = loop.asked_person()
        agreed >> approve
        agreed = record_approval(agreed, approve.output)
    if settings().has_rollout:
        agreed = start_rollout(agreed)
        await_rollout(agreed) >> activate(agreed)
    else:
        activate(agreed)


promote_model()
