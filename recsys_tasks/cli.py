"""The command line: the same steps that the DAGs call. Exit status 0, 1 (failed) or 2 (wrong use)."""

from __future__ import annotations

import argparse
import getpass
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_tasks.errors import ConfigurationError, InputError, RecsysError
from recsys_tasks.names import BASELINES, NETWORKS, TRANSFORMER
from recsys_tasks.settings import settings
from recsys_tasks.simulation.scenario import scenario_names

if TYPE_CHECKING:
    from recsys_tasks.ingestion.load import LoadReport

_LOOK_SECONDS = 10.0
Verb = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if given.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("recsys_tasks").setLevel(logging.INFO)
    try:
        given.verb(given)
    except ConfigurationError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except RecsysError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recsys_tasks", description="The steps of the loop, one by one.")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what libraries say too")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    ingest = _add(
        verbs, "ingest", _ingest, "land, validate and load a source, or all that is new in the landing folder"
    )
    ingest.add_argument(
        "--source", help="complete_journey, otto, retailrocket, or a mapping file; without it, the landing folder"
    )
    ingest.add_argument("paths", nargs="*", metavar="PATH", help="files, for sources that read files")
    ingest.add_argument("--from", dest="start", type=_moment, help="for complete_journey: from this time on")
    ingest.add_argument("--to", dest="end", type=_moment, help="for complete_journey: before this time")

    validate = _add(verbs, "validate", _validate, "check a landed batch again")
    validate.add_argument("batch_id", help="id of a batch, as ingest logs it")

    replay = _add(verbs, "replay", _replay, "take mended rows in quarantine through validation once more")
    replay.add_argument("--source", help="only of this source")
    replay.add_argument("--batch", help="only of this batch")
    replay.add_argument("--rule", help="only what broke this rule")

    retract = _add(verbs, "retract", _retract, "remove what a batch brought, for instance one read by a wrong mapping")
    retract.add_argument("batch_id", help="id of a loaded batch")
    retract.add_argument("--reason", required=True, help="kept with the batch")

    forget = _add(verbs, "forget", _forget, "remove users: from the warehouse, snapshots and endpoints")
    forget.add_argument("user_ids", nargs="+", metavar="USER", help="ids, as the warehouse has them")

    maintain = _add(verbs, "maintain", _maintain, "retention, statistics, and files that nothing needs any more")
    maintain.add_argument("--dry-run", action="store_true", help="only say what would go")

    features = _add(verbs, "features", _features, "build a feature snapshot")
    features.add_argument("--cutoff", type=_moment, help="as of when; default: everything there is")
    features.add_argument("--known", type=int, help="by what the first so many changes of the warehouse said")

    train = _add(verbs, "train", _train, "train on a snapshot, evaluate, register as challenger")
    train.add_argument("--snapshot", help="default: the latest")
    train.add_argument("--from-scratch", action="store_true", help="leave the champion's weights aside")

    reproduce = _add(verbs, "reproduce", _reproduce, "do a run's training again, and compare the metrics")
    reproduce.add_argument("run_id", help="of an MLflow run of the verb train")

    promote = _add(verbs, "promote", _promote, "take a version through the gate onto the endpoints")
    promote.add_argument("--version", help="default: the challenger")

    rollback = _add(verbs, "rollback", _rollback, "end a trial, or put the previous model back on every endpoint")
    rollback.add_argument("--reason", default="asked for by hand", help="kept in `promotions` and with the version")

    _add(verbs, "reconcile", _reconcile, "make endpoints and aliases agree with what was promoted last")

    serve = _add(verbs, "serve", _serve, "run the endpoint")
    serve.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    serve.add_argument("--port", type=int, default=8080, help="default: 8080")
    serve.add_argument(
        "--workers", type=int, default=1, help="processes that share the port; each has one more of its own after it"
    )

    _add(verbs, "feedback", _feedback, "collect the endpoints' journals into the warehouse")

    _add(verbs, "watch", _watch, "count what came of what was shown, judge it, and do what the rules ask for")

    _add(verbs, "report", _report, "one HTML file: funnel, arms, offline against online, drift, quarantine")

    simulate = _add(verbs, "simulate", _simulate, "let simulated shoppers shop at the endpoint over HTTP")
    simulate.add_argument("--scenario", help=f"what happens: a TOML file, or one of {', '.join(scenario_names())}")
    simulate.add_argument("--from", dest="start", type=_moment, help="day 0; default: after the latest event")
    simulate.add_argument("--first-day", type=int, default=0, help="of the scenario, to go on; default 0")
    simulate.add_argument("--days", type=_count, default=1, help="how many days, default 1")
    simulate.add_argument("--sessions", type=_count, default=500, help="a day, default 500")
    simulate.add_argument("--shoppers", type=_count, default=1_000, help="in the population, default 1000")
    simulate.add_argument("--k", type=_count, default=20, help="length of lists, default 20")
    simulate.add_argument("--seed", type=int, help="of everything that is drawn; default: RECSYS_SEED")

    summary = "train on a sequence file, predict the last items of another"
    measured = verbs.add_parser("benchmark", help=summary, description=summary)
    measured.set_defaults(verb=_benchmark)
    measured.add_argument(
        "--train", required=True, type=Path, metavar="F", help="Parquet: sequence_id, position, item_id"
    )
    measured.add_argument(
        "--test", required=True, type=Path, metavar="F", help="the same; the last rows are the targets"
    )
    measured.add_argument("--items", type=Path, metavar="F", help="Parquet: item_id with text columns or attribute_id")
    models = (*NETWORKS, *BASELINES)
    measured.add_argument("--model", default=TRANSFORMER, choices=models, help=f"default: {TRANSFORMER}")
    measured.add_argument("--seed", type=int, default=0, help="of every random number, default 0")
    measured.add_argument("--minutes", type=_minutes, default=30.0, help="time for training, default 30")
    measured.add_argument("--json", required=True, type=Path, metavar="OUT", help="file to write the figures to")

    _add(verbs, "status", _status, "the state of the loop")

    lineage = _add(
        verbs, "lineage", _lineage, "from a served recommendation back to model, snapshot, batches and files"
    )
    lineage.add_argument("request_id", help="as the endpoint answered it")
    return parser


def _add(verbs: argparse._SubParsersAction, name: str, verb: Verb, summary: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(verb=verb)
    return parser


def _minutes(text: str) -> float:
    minutes = float(text)
    if not minutes > 0:
        raise ValueError("not a time")
    return minutes


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError("not a count")
    return count


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _show(given: argparse.Namespace, found: dict[str, object]) -> None:
    if given.json:
        print(json.dumps(found, default=str, ensure_ascii=False))
        return
    _show_lines(found)


def _show_lines(found: dict[str, object]) -> None:
    for name, value in found.items():
        print(f"{name:>22}  {value}")


def _ingest(given: argparse.Namespace) -> None:
    from recsys_tasks.ingestion.sources import read_source
    from recsys_tasks.interval import Interval
    from recsys_tasks.steps import ingestion

    if (given.start is None) != (given.end is None):
        raise ConfigurationError("--from and --to go together")
    if given.source is None:
        if given.paths:
            raise ConfigurationError(f"--source says how to read {given.paths[0]}")
        reports, problems = ingestion.ingest_landing()
        _show_counts(given, reports)
        if problems:
            raise InputError("\n".join(problems))
        return
    interval = Interval(given.start, given.end) if given.start else None
    paths = [Path(path) for path in given.paths]
    _show_counts(given, ingestion.ingest(read_source(given.source, paths, interval)))


def _show_counts(given: argparse.Namespace, reports: Sequence[LoadReport]) -> None:
    from recsys_tasks.ingestion.load import totals

    _show(given, {**totals(reports)})


def _replay(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import ingestion

    _show_counts(given, ingestion.replay_quarantine(given.source, given.batch, given.rule))


def _retract(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import ingestion

    _show(given, vars(ingestion.retract_batch(given.batch_id, given.reason)))


def _forget(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import erasure

    _show(given, vars(erasure.forget_users(given.user_ids)))


def _maintain(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import maintenance

    _show(given, vars(maintenance.maintain(dry_run=given.dry_run)))


def _validate(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import ingestion

    (report,) = ingestion.validate_batches([given.batch_id])
    _show(given, vars(report))


def _features(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import features

    built = features.build_features(given.cutoff, given.known)
    _show(given, {**vars(built), "files": len(built.files)})


def _train(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import training

    run_id = training.train_model(given.snapshot, given.from_scratch)
    table = training.evaluate_run(run_id)
    version = training.register_run(run_id)
    _show(given, {"run_id": run_id, "version": version, **{name: row["mrr_20"] for name, row in table.items()}})


def _reproduce(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import training

    run_id, metrics = training.reproduce(given.run_id)
    differing = sorted(name for name, (then, now) in metrics.items() if then != now)
    _show(given, {"run_id": run_id, **{name: f"{then:.6f}, again {now:.6f}" for name, (then, now) in metrics.items()}})
    if differing:
        raise RecsysError(f"Run {run_id} does not come to the figures of {given.run_id} in {', '.join(differing)}")


def _promote(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import promotion

    number, folder = promotion.build(given.version)
    decision = promotion.judge(number, folder)
    if not decision.promote:
        raise RecsysError("\n  ".join([f"Version {number} is refused", *decision.reasons]))
    by, evidence = _by_hand(), decision.as_dict()
    if settings().has_rollout:
        began = promotion.start_rollout(number, folder, by, evidence)
        while (findings := promotion.check_rollout(folder, began)) is None:
            time.sleep(_LOOK_SECONDS)
        decision.notes.extend(findings)
    promotion.activate(number, folder, decision.reasons, by, evidence)
    _show(given, {"version": number, "bundle": folder.name, "reasons": decision.reasons})


def _rollback(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import promotion

    _show(given, {"version": promotion.roll_back(given.reason, _by_hand())})


def _by_hand() -> str:
    return f"{getpass.getuser()} by hand"


def _reconcile(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import promotion

    found = promotion.reconcile()
    _show(given, found._asdict())
    found.raise_problems()


def _serve(given: argparse.Namespace) -> None:
    from recsys_tasks.serving.server import serve

    serve(given.host, given.port, given.workers)


def _feedback(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import ingestion

    _show_counts(given, ingestion.load_feedback(ingestion.fetch_feedback()))


def _watch(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import monitoring

    counted = monitoring.attribute_outcomes()
    found = monitoring.check_monitors()
    reaction = monitoring.react()
    lines = {("!! " if finding.fires else "") + finding.rule.name: finding.explanation for finding in found}
    followed = {"rolled_back_to": reaction.rolled_back_to, "retrain": bool(reaction.retrain)}
    _show(given, {"days": len(counted.days), "requests": counted.requests, **lines, **followed})


def _report(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import monitoring

    written = monitoring.report()
    if written is None:
        raise InputError("Nothing was shown to anybody so far, or its feedback was not counted: see the verb watch")
    _show(given, {"report": written.path, "headlines": written.report.headlines})


def _simulate(given: argparse.Namespace) -> None:
    from recsys_tasks.steps.simulation import simulate

    days = range(given.first_day, given.first_day + given.days)
    shopped = simulate(given.scenario, given.start, days, given.sessions, given.shoppers, given.k, given.seed)
    _show(given, {**shopped.as_dict()})


def _benchmark(given: argparse.Namespace) -> None:
    from recsys_tasks.evaluation.benchmark import benchmark
    from recsys_tasks.model.distributed import process_group

    with process_group() as first:
        found = benchmark(given.train, given.test, given.items, given.model, given.seed, given.minutes)
    if not first:
        return
    given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    _show_lines({name: value for name, value in found.items() if name != "curve"})


def _status(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import status

    found = status.status()
    if given.json:
        _show(given, found)
        return
    sources = found.pop("sources")
    _show(given, found)
    for source in sources:
        print()
        _show(given, source)


def _lineage(given: argparse.Namespace) -> None:
    from recsys_tasks.steps import status

    _show(given, status.lineage(given.request_id))
