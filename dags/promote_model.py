"""Promotes the challenger: gate, approval, rollout and activation at the endpoints."""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Param, task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

DOC = """
### What it does
Builds the challenger's bundle (ONNX graphs, histories, checksums, golden requests with their answers), evaluates it
with the baselines and the champion on the same held-out sessions, and applies the gate's rules
(`recsys_tasks/evaluation/gate.toml`, or `RECSYS_GATE_RULES`). With `RECSYS_APPROVAL=person`, a person then approves or
rejects it under *Required actions*. Next, stages the bundle at every endpoint of `RECSYS_ENDPOINT_URLS`, which checks
and measures it. With `RECSYS_SHADOW_SHARE` or `RECSYS_CANARY_SHARE`, a rollout follows. At last, activates the bundle
on all endpoints or on none, and moves the alias `champion`.

**Reads** MLflow, the version's snapshot. **Writes** the endpoints, the aliases, the version's tags, a row of
`promotions`, and the asset `champion`.

### Run it again
Always safe: a bundle is identified by its content, and an active bundle is left as it is. For a certain version,
trigger it with `{"version": "7"}`. To return to the previous version: `python -m recsys_tasks rollback`.

### When it fails
After any failure, the old champion serves everywhere.
* `check_gate` is *skipped*: the gate refused the version, or it waits, as too few sessions are in neither model's
  training; a challenger of a later snapshot has more. The log, the run's `decision.md` and, of a refusal,
  `promotions.evidence` have all numbers.
* `record_approval` is *skipped*: a person rejected the version, or nobody answered in time. `promotions.reasons` names
  the person.
* `PushFailed`: an endpoint refused the bundle or answers wrongly. Endpoints that had activated it were restored.
* `RolloutFailed` in `await_rollout`: errors, slow answers or fewer clicks than the champion. The version is withdrawn.
* `UnavailableError`: an endpoint, MLflow or the warehouse does not answer, or another promotion is in progress. Airflow
  retries the task.
* `ConfigurationError`: `RECSYS_ADMIN_TOKEN` is not set or differs from the endpoint's, or the gate's rules are invalid.
* `InputError`: there is no challenger, the version does not exist, or its run or snapshot is gone. Train a model.
* `BundleUnusable` or `GoldenMismatch` in `build_bundle` or `check_gate`: the bundle does not work on this machine.
  Train again.
"""


@task(multiple_outputs=False, inlets=[loop.CHALLENGER_VERSION])
@loop.step
def build_bundle(params: Any = None, triggering_asset_events: Any = None) -> dict[str, Any]:
    from recsys_tasks.steps import promotion

    version = params["version"] or loop.get_event_extra(triggering_asset_events, "version")
    number, folder = promotion.build(version)
    return {"version": number, "bundle": folder.name}


@task(multiple_outputs=False, inlets=[loop.CHALLENGER_VERSION], **loop.TRAINING_TASK)
@loop.step
def check_gate(bundle: dict[str, Any]) -> dict[str, Any]:
    from recsys_tasks.steps import promotion

    decision = promotion.judge(bundle["version"], promotion.find_bundle(bundle["version"], bundle["bundle"]))
    loop.add_note(f"version {bundle['version']}: {'; '.join(decision.reasons)}")
    if not decision.promote:
        raise AirflowSkipException(f"Version {bundle['version']}: {decision.verdict}: {'; '.join(decision.reasons)}")
    evidence = {"evidence": decision.as_dict(), "shown": decision.as_markdown()}
    return {**bundle, "reasons": decision.reasons, "approved_by": promotion.AUTOMATIC, **evidence}


@task(multiple_outputs=False)
@loop.step
def record_approval(checked: dict[str, Any], answer: Any = None) -> dict[str, Any]:
    from recsys_tasks.steps import promotion

    is_approved, responder = loop.read_approval(answer)
    if not is_approved:
        promotion.reject(checked["version"], checked["reasons"], responder, checked["evidence"])
        raise AirflowSkipException(f"Version {checked['version']} was rejected by {responder}")
    return {**checked, "approved_by": responder}


@task(multiple_outputs=False)
@loop.step
def start_rollout(approved: dict[str, Any]) -> dict[str, Any]:
    from recsys_tasks.steps import promotion

    folder = promotion.find_bundle(approved["version"], approved["bundle"])
    started_at = promotion.start_rollout(approved["version"], folder, approved["approved_by"], approved["evidence"])
    return {**approved, "began": started_at and started_at.isoformat()}


@task.sensor(poke_interval=60, mode="reschedule", timeout=30 * 24 * 3600.0)
@loop.step
def await_rollout(rollout: dict[str, Any]) -> bool:
    from recsys_tasks.steps import promotion

    started_at = rollout["began"] and datetime.fromisoformat(rollout["began"])
    findings = promotion.check_rollout(promotion.find_bundle(rollout["version"], rollout["bundle"]), started_at)
    if findings is None:
        return False
    loop.add_note(f"version {rollout['version']} passed its rollout: {'; '.join(findings)}")
    return True


@task(inlets=[loop.CHALLENGER_VERSION], outlets=[loop.CHAMPION_VERSION])
@loop.step
def activate(approved: dict[str, Any], outlet_events: Any = None) -> str:
    from recsys_tasks.steps import promotion

    version, approved_by = approved["version"], approved["approved_by"]
    folder = promotion.find_bundle(version, approved["bundle"])
    promotion.activate(version, folder, approved["reasons"], approved_by, approved["evidence"])
    outlet_events[loop.CHAMPION_VERSION].extra = {"version": version}
    return version


@loop.recsys_dag(
    DOC,
    schedule=[loop.CHALLENGER_VERSION],
    max_extra_time=timedelta(hours=1) + settings().max_promotion_wait,
    params={"version": Param(None, type=["null", "string"], description="default: the challenger")},
    tags=["model", "serving", "tier:1"],
)
def promote_model() -> None:
    approved = check_gate(build_bundle())
    if settings().approval == "person":
        approve = loop.create_approval_task()
        approved >> approve
        approved = record_approval(approved, approve.output)
    if settings().has_rollout:
        approved = start_rollout(approved)
        await_rollout(approved) >> activate(approved)
    else:
        activate(approved)


promote_model()
