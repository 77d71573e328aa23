"""The promotion gate applied to a version and its bundle: collects the evidence, decides, and records the decision."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

from recsys_tasks.engine.bundle import bundle_digest, read_bundle
from recsys_tasks.errors import IncompatibleModelFormat, InputError
from recsys_tasks.evaluation.comparison import Comparison
from recsys_tasks.evaluation.gate import MODEL, REFUSE, Decision, Evidence, GateRules, decide_promotion
from recsys_tasks.evaluation.segments import QUESTIONS
from recsys_tasks.experiments.explored_lists import LoggedLists, load_explored_lists
from recsys_tasks.features.snapshot import open_snapshot
from recsys_tasks.interval import Interval
from recsys_tasks.monitoring.alarms import read_open_alarms
from recsys_tasks.monitoring.rules import HOLD_PROMOTIONS
from recsys_tasks.names import CHAMPION
from recsys_tasks.promotion import deployment_record
from recsys_tasks.promotion.build import measure_bundle
from recsys_tasks.promotion.bundle_store import fetch_bundle
from recsys_tasks.promotion.deployment import Deployment
from recsys_tasks.promotion.deployment_record import DeployedVersion
from recsys_tasks.promotion.search_weights import MIN_QUERIES, search_ndcg
from recsys_tasks.registry import runs, versions
from recsys_tasks.warehouse import statement

log = logging.getLogger(__name__)


def check_gate(deployment: Deployment, number: str, folder: Path) -> Decision:
    """Decides whether a version may be promoted; records the decision in MLflow, a refusal in the warehouse, too.

    A version that waits for comparable sessions is not refused; only MLflow has that.
    """
    version, rules = versions.version_by_number(number), deployment.gate_rules
    decision = decide_promotion(rules, _collect_evidence(deployment, version, rules, folder))
    runs.log_decision(version, decision)
    if decision.verdict == REFUSE:
        refused = DeployedVersion(version.number, version.run_id, version.snapshot_id, bundle_digest(folder))
        deployment_record.insert_decision(
            deployment.warehouse, refused, deployment_record.REFUSED, decision.reasons, evidence=decision.as_dict()
        )
    for reason in decision.reasons:
        log.info("Version %s: %s", version.number, reason)
    return decision


def _collect_evidence(deployment: Deployment, version: versions.Version, rules: GateRules, folder: Path) -> Evidence:
    from recsys_tasks.training.evaluation import evaluate_run  # imports torch, which only the gate needs here

    is_trained = runs.is_trained(version.run_id)
    table = runs.load_evaluation(version.run_id)
    if is_trained and QUESTIONS not in table.get(
        MODEL, {}
    ):  # not evaluated yet, or by an earlier version of the package
        table = evaluate_run(version.run_id, deployment.snapshots)
    comparison, num_earlier_tries, notes, same_schema = None, 0, [], True
    champion = versions.version_by_alias(CHAMPION)
    if champion is None:
        notes.append("there is no champion yet: the baselines decide")
    elif champion.number == version.number:
        notes.append("it is the champion: the baselines decide")
    elif not runs.is_trained(champion.run_id):
        notes.append(f"champion version {champion.number} was not trained: the baselines decide")
    elif is_trained:
        comparison, problem = _compare_with_champion(deployment, version, champion, rules)
        if comparison is not None and comparison.num_tasks >= rules.champion.min_questions:
            cutoff = open_snapshot(deployment.snapshots, version.snapshot_id).cutoff
            num_earlier_tries = runs.count_earlier_tries(version, comparison.since, cutoff)
        same_schema = versions.signature(version) == versions.signature(champion)
        notes += [problem] if problem else []
    measured = measure_bundle(folder) | {
        "cutoff_age_days": _cutoff_age_days(deployment, version),
        "search_ndcg_drop": _search_ndcg_drop(deployment, folder),
    }
    replaces_trained = champion is not None and champion.number != version.number and runs.is_trained(champion.run_id)
    holds = _promotion_holds(deployment)
    is_first = champion is None or not runs.is_trained(champion.run_id)
    return Evidence(
        table, comparison, num_earlier_tries, measured, same_schema, notes, holds, replaces_trained, is_first
    )


def _promotion_holds(deployment: Deployment) -> list[str]:
    """Returns the open alarms that hold promotions, in words."""
    with deployment.warehouse.connect() as connection:
        alarms = read_open_alarms(connection)
    return [
        f"since {alarm.raised_at:%Y-%m-%d %H:%M} UTC: {alarm.rule}: {alarm.explanation}"
        for alarm in alarms
        if alarm.action == HOLD_PROMOTIONS
    ]


def _compare_with_champion(
    deployment: Deployment, version: versions.Version, champion: versions.Version, rules: GateRules
) -> tuple[Comparison | None, str | None]:
    """Returns the comparison on the version's test sessions, or the reason why there is none."""
    from recsys_tasks.training.run_comparison import compare_runs

    def load_lists(between: Interval) -> LoggedLists:
        max_lists = rules.counterfactual.max_lists if rules.counterfactual else 0
        with deployment.warehouse.connect() as connection:
            return load_explored_lists(connection, between, max_lists)

    try:
        comparison = compare_runs(
            version.run_id, champion.run_id, deployment.snapshots, load_lists if rules.counterfactual else None
        )
    except (IncompatibleModelFormat, InputError) as error:
        return None, f"not compared with champion version {champion.number}: {error}"
    runs.log_comparison(version.run_id, champion.number, comparison, rules.champion.confidence)
    return comparison, None


def _search_ndcg_drop(deployment: Deployment, folder: Path) -> float:
    """Returns by how much nDCG@10 of the bundle's search is below that of the version that serves; 0 without one.

    Both are measured on the queries that the new bundle learned, without what they taught.
    """
    served = deployment_record.read_state(deployment.warehouse).served
    bundle = read_bundle(folder)
    if not served or len(bundle.learned_queries) < MIN_QUERIES:
        return 0.0
    before = fetch_bundle(deployment, served[-1].bundle_digest or "")
    if before is None or before == folder:
        return 0.0
    return search_ndcg(read_bundle(before), bundle.learned_queries) - search_ndcg(bundle, bundle.learned_queries)


def _cutoff_age_days(deployment: Deployment, version: versions.Version) -> float:
    """Returns by how many days the version's snapshot is behind the latest event of the warehouse."""
    with deployment.warehouse.connect() as connection:
        last_event = connection.scalar(statement("promotion/last_event"))
    if last_event is None:
        return 0.0
    behind: timedelta = last_event - open_snapshot(deployment.snapshots, version.snapshot_id).cutoff
    return max(behind / timedelta(days=1), 0.0)
