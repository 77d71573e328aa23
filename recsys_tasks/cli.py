"""Command line with the same steps as the DAGs. Exit status: 0 success, 1 failure, 2 wrong usage."""

from __future__ import annotations

import argparse
import getpass
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_tasks.errors import ConfigurationError, InputError, RecsysError
from recsys_tasks.names import BASELINES, NETWORKS, TRANSFORMER
from recsys_tasks.plugins import BASELINE_GROUP, MODEL_GROUP, plugin_names
from recsys_tasks.simulation.scenario import scenario_names

if TYPE_CHECKING:
    from recsys_tasks.ingestion.batch import SourceBatch
    from recsys_tasks.ingestion.load import LoadReport
    from recsys_tasks.ingestion.quarantine import QuarantinedRow

Verb = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("recsys_tasks").setLevel(logging.INFO)
    try:
        options.verb(options)
    except ConfigurationError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except RecsysError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs."""
    parser = argparse.ArgumentParser(prog="python -m recsys_tasks", description="Runs single steps of the loop.")
    parser.add_argument("-v", "--verbose", action="store_true", help="also show log messages of libraries")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    ingest = _add_verb(
        verbs, "ingest", _ingest, "land, validate and load a source, or all new files in the landing folder"
    )
    ingest.add_argument(
        "--source", help="complete_journey, otto, retailrocket, or a mapping file; default: the landing folder"
    )
    ingest.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="files of the source, also in a remote store such as s3://; may have * and {date:%%Y-%%m-%%d}",
    )
    ingest.add_argument(
        "--from", dest="start", type=_parse_time, help="start, for complete_journey and for dates in paths"
    )
    ingest.add_argument("--to", dest="end", type=_parse_time, help="end (exclusive), likewise")
    ingest.add_argument(
        "--dry-run", action="store_true", help="only show typed rows, quarantine reasons and warnings; write nothing"
    )
    ingest.add_argument("--infer", metavar="FILE", help="only print a draft of a mapping for a file")

    diff = _add_verb(verbs, "diff", _diff, "compare two batches, or two snapshots: figures, new and gone ids")
    diff.add_argument("first", help="id of a batch or of a snapshot")
    diff.add_argument("second", help="id of another one")

    validate = _add_verb(verbs, "validate", _validate, "validate a landed batch again")
    validate.add_argument("batch_id", help="id of the batch, from the log of ingest")

    replay = _add_verb(verbs, "replay", _replay, "validate and load repaired quarantined rows again")
    _add_quarantine_filters(replay)

    quarantine = _add_verb(
        verbs, "quarantine", _quarantine, "list quarantined rows by rule, show or export them, import corrected ones"
    )
    _add_quarantine_filters(quarantine)
    action = quarantine.add_mutually_exclusive_group()
    action.add_argument("--show", type=_parse_count, metavar="N", help="show the first N rows with their reasons")
    action.add_argument("--export", type=Path, metavar="FILE", help="write the rows to a JSONL file, to correct them")
    action.add_argument(
        "--import", dest="corrected", type=Path, metavar="FILE", help="load the corrected rows of an exported file"
    )

    retract = _add_verb(
        verbs, "retract", _retract, "remove the rows of a loaded batch, for example after a wrong mapping"
    )
    retract.add_argument("batch_id", help="id of the loaded batch")
    retract.add_argument("--reason", required=True, help="stored with the batch")

    forget = _add_verb(verbs, "forget", _forget, "erase users from the warehouse, snapshots and endpoints")
    forget.add_argument("user_ids", nargs="+", metavar="USER", help="user ids, as stored in the warehouse")

    maintain = _add_verb(verbs, "maintain", _maintain, "apply retention, refresh statistics, delete unused files")
    maintain.add_argument("--dry-run", action="store_true", help="only print what would be deleted")

    features = _add_verb(verbs, "features", _features, "build a feature snapshot")
    features.add_argument("--cutoff", type=_parse_time, help="point in time of the snapshot; default: all events")
    features.add_argument(
        "--as-of-change", type=int, help="number of the last warehouse change to include; default: all"
    )

    train = _add_verb(verbs, "train", _train, "train on a snapshot, evaluate, register as challenger")
    train.add_argument("--snapshot", help="id of a snapshot; default: the latest")
    train.add_argument("--from-scratch", action="store_true", help="do not warm-start from the champion")
    train.add_argument(
        "--content-only", action="store_true", help="register an untrained version that ranks by content and popularity"
    )

    train.add_argument(
        "--train-only",
        type=Path,
        metavar="FILE",
        help="neither evaluate nor register; write the run's id, or the error, to a JSON file",
    )

    tune = _add_verb(verbs, "tune", _tune, "search for better hyperparameters, register the best as challenger")
    tune.add_argument("--snapshot", help="id of a snapshot; default: the latest")
    tune.add_argument("--minutes", type=_parse_minutes, help="duration; default: RECSYS_TUNING_MINUTES")
    tune.add_argument(
        "--trial-minutes", type=_parse_minutes, help="time of each training; default: RECSYS_TRAINING_SECONDS"
    )
    tune.add_argument("--max-trials", type=_parse_count, help="of this process; default: as many as there is time for")
    tune.add_argument("--study", metavar="NAME", help="name of the study; an existing study is resumed")
    tune.add_argument("--join", metavar="NAME", help="only run trials of a study that another process started")

    reproduce = _add_verb(verbs, "reproduce", _reproduce, "retrain an MLflow run and compare the metrics")
    reproduce.add_argument("run_id", help="id of an MLflow run of the verb train")

    promote = _add_verb(
        verbs, "promote", _promote, "check a version by the promotion gate and deploy it to the endpoints"
    )
    promote.add_argument("--version", help="version number; default: the challenger")

    rollback = _add_verb(
        verbs, "rollback", _rollback, "end the rollout, or restore the previous version on every endpoint"
    )
    rollback.add_argument("--reason", default="requested by hand", help="stored in `promotions` and with the version")

    _add_verb(verbs, "reconcile", _reconcile, "make endpoints and registry aliases match the last promotion")

    console = _add_verb(verbs, "console", _console, "run the operations console")
    console.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    console.add_argument("--port", type=int, default=8083, help="default: 8083")
    serve = _add_verb(verbs, "serve", _serve, "run the endpoint")
    serve.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    serve.add_argument("--port", type=int, default=8080, help="default: 8080")
    serve.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes that share the port; worker N also listens on its own port, port + N",
    )
    serve.add_argument(
        "--open",
        action="store_true",
        help="let everybody read lists and post events at a public address, without keys",
    )

    key = _add_verb(verbs, "key", _key, "make an API key, and its entry of RECSYS_KEYS_FILE")
    key.add_argument("name", help="of the caller, for the event log, the rate limit and error messages")
    key.add_argument(
        "--scope",
        dest="scopes",
        action="append",
        required=True,
        choices=("read", "write", "items", "admin"),
        help="what the caller may do; may be given several times",
    )
    key.add_argument(
        "--origin", dest="origins", action="append", default=[], help="of the pages that hold the key (read, write)"
    )
    key.add_argument("--expires", type=_parse_time, help="the key is valid before this time; default: for ever")

    _add_verb(verbs, "feedback", _feedback, "collect the endpoints' event logs into the warehouse")

    _add_verb(verbs, "monitor", _monitor, "attribute outcomes, run the monitors, and take the actions of their rules")

    _add_verb(
        verbs,
        "report",
        _report,
        "write an HTML report: funnel, experiment arms, offline against online metrics, drift, quarantine",
    )

    simulate = _add_verb(verbs, "simulate", _simulate, "simulate shoppers at the endpoint over HTTP")
    simulate.add_argument("--scenario", help=f"TOML file, or one of {', '.join(scenario_names())}")
    simulate.add_argument(
        "--from", dest="start", type=_parse_time, help="start of day 0; default: the midnight after the latest event"
    )
    simulate.add_argument("--first-day", type=int, default=0, help="first day of the scenario to simulate; default: 0")
    simulate.add_argument("--days", type=_parse_count, default=1, help="number of days; default: 1")
    simulate.add_argument("--sessions", type=_parse_count, default=500, help="sessions per day; default: 500")
    simulate.add_argument("--shoppers", type=_parse_count, default=1_000, help="size of the population; default: 1000")
    simulate.add_argument("--k", type=_parse_count, default=20, help="length of lists; default: 20")
    simulate.add_argument("--seed", type=int, help="random seed; default: RECSYS_SEED")

    summary = "train on a sequence file and predict the last items of another"
    benchmark_parser = verbs.add_parser("benchmark", help=summary, description=summary)
    benchmark_parser.set_defaults(verb=_benchmark)
    benchmark_parser.add_argument(
        "--train", required=True, type=Path, metavar="F", help="Parquet: sequence_id, position, item_id"
    )
    benchmark_parser.add_argument(
        "--test", required=True, type=Path, metavar="F", help="same format; the last row of each sequence is its target"
    )
    benchmark_parser.add_argument(
        "--items", type=Path, metavar="F", help="Parquet: item_id with text columns or attribute_id"
    )
    models = (*NETWORKS, *BASELINES, *plugin_names(BASELINE_GROUP), *plugin_names(MODEL_GROUP))
    benchmark_parser.add_argument("--model", default=TRANSFORMER, choices=models, help=f"default: {TRANSFORMER}")
    benchmark_parser.add_argument("--seed", type=int, default=0, help="random seed; default: 0")
    benchmark_parser.add_argument("--minutes", type=_parse_minutes, default=30.0, help="training time; default: 30")
    benchmark_parser.add_argument(
        "--strict", action="store_true", help="item ids only, and no training on the item before the target"
    )
    benchmark_parser.add_argument("--recipe", type=Path, metavar="F", help="TOML file of hyperparameters")
    benchmark_parser.add_argument("--json", required=True, type=Path, metavar="OUT", help="output file for the metrics")

    search = _add_verb(
        verbs, "search-eval", _search_eval, "evaluate search at an endpoint, by class of queries; records nothing"
    )
    search.add_argument(
        "--queries",
        type=Path,
        metavar="F",
        help="CSV: query, item_id or category, optionally rating, class, searches; default: the warehouse's choices",
    )
    search.add_argument("--url", help="address of the endpoint; default: the first of RECSYS_ENDPOINT_URLS")
    search.add_argument("--days", type=_parse_count, default=28, help="age of the warehouse's searches; default: 28")

    check = _add_verb(verbs, "check", _check, "check the installation: versions, folder, warehouse, MLflow, endpoints")
    check.add_argument("--without-airflow", action="store_true", help="for a machine that runs no DAGs")

    _add_verb(verbs, "status", _status, "print the state of the loop")

    lineage = _add_verb(
        verbs, "lineage", _lineage, "trace a served recommendation to its model, snapshot, batches and files"
    )
    lineage.add_argument("request_id", help="request_id of the endpoint's response")
    return parser


def _add_verb(verbs: argparse._SubParsersAction, name: str, verb: Verb, summary: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(verb=verb)
    return parser


def _add_quarantine_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", help="only rows of this source")
    parser.add_argument("--batch", help="only rows of this batch")
    parser.add_argument("--rule", help="only rows that broke this rule")


def _parse_minutes(text: str) -> float:
    minutes = float(text)
    if not minutes > 0:
        raise ValueError("minutes must be positive")
    return minutes


def _parse_count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError("must be at least 1")
    return count


def _parse_time(text: str) -> datetime:
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _print_result(options: argparse.Namespace, found: dict[str, object]) -> None:
    if options.json:
        print(json.dumps(found, default=str, ensure_ascii=False))
        return
    _print_lines(found)


def _print_lines(found: dict[str, object]) -> None:
    for name, value in found.items():
        print(f"{name:>22}  {value}")


def _ingest(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import ingestion

    if (options.start is None) != (options.end is None):
        raise ConfigurationError("--from and --to need each other. Give both or neither")
    if options.infer is not None:
        from recsys_tasks.ingestion.inference import draft_mapping
        from recsys_tasks.ingestion.remote_files import local_copy
        from recsys_tasks.storage.addresses import is_remote

        with local_copy(options.infer) if is_remote(options.infer) else nullcontext(Path(options.infer)) as file:
            print(draft_mapping(file))
        return
    if options.source is None and options.paths:
        raise ConfigurationError(f"--source is missing: give the source of {options.paths[0]}")
    if options.dry_run:
        _dry_run(options)
        return
    if options.source is None:
        for path, problem in ingestion.find_skipped_landing_files().items():
            print(f"skipped {path}: {problem}", file=sys.stderr)
        reports, problems = ingestion.ingest_landing()
        _print_counts(options, reports)
        if problems:
            raise InputError("\n".join(problems))
        return
    _print_counts(options, ingestion.ingest(_read_batches(options)))


def _dry_run(options: argparse.Namespace) -> None:
    from recsys_tasks.errors import BatchRejected
    from recsys_tasks.steps import ingestion

    reports, problems = ingestion.dry_run(_read_batches(options))
    if options.json:
        print(json.dumps([asdict(report) for report in reports], default=str, ensure_ascii=False))
    else:
        print("\n".join(line for report in reports for line in report.lines()))
    problems += [f"{report.origin} would be rejected" for report in reports if report.problems]
    if problems:
        raise BatchRejected("\n".join([*problems, "Nothing was written"]))


def _read_batches(options: argparse.Namespace) -> Iterator[SourceBatch]:
    """Yields the batches of the source, or of the new files in the landing folder."""
    from recsys_tasks.ingestion.delivery import require_delivered_files
    from recsys_tasks.ingestion.sources import read_source
    from recsys_tasks.interval import Interval
    from recsys_tasks.steps import ingestion

    if options.source is None:
        for file in ingestion.find_landing_files():
            yield from read_source(file.source, [file.path])
        return
    interval = Interval(options.start, options.end) if options.start else None
    yield from read_source(options.source, require_delivered_files(options.paths, interval), interval)


def _print_counts(options: argparse.Namespace, reports: Sequence[LoadReport]) -> None:
    from recsys_tasks.ingestion.load import sum_counts

    _print_result(options, {**sum_counts(reports)})


def _replay(options: argparse.Namespace) -> None:
    from recsys_tasks.ingestion.quarantine import QuarantineFilter
    from recsys_tasks.steps import ingestion

    selected = QuarantineFilter(options.source, options.batch, options.rule)
    _print_counts(options, ingestion.replay_quarantine(selected))


def _quarantine(options: argparse.Namespace) -> None:
    from recsys_tasks.ingestion.quarantine import QuarantineFilter, write_rows
    from recsys_tasks.steps import ingestion

    selected = QuarantineFilter(options.source, options.batch, options.rule)
    if options.corrected is not None:
        _print_counts(options, ingestion.import_corrections(options.corrected))
    elif options.export is not None:
        rows = ingestion.read_quarantine(selected, only_replayable=True)
        write_rows(rows, options.export)
        _print_result(options, {"rows": len(rows), "file": options.export})
    elif options.show is not None:
        _show_quarantine(options, ingestion.read_quarantine(selected, options.show))
    else:
        _list_quarantine(options, ingestion.summarize_quarantine(selected))


def _list_quarantine(options: argparse.Namespace, found: list[dict[str, object]]) -> None:
    if options.json:
        print(json.dumps(found, default=str, ensure_ascii=False))
        return
    for row in found:
        status = "" if row["batch_status"] == "loaded" else f", of {row['batch_status']} batches"
        print(f"{row['source']}: {row['num_rows']:,} rows in {row['num_batches']:,} batches{status}: {row['reason']}")
        print(f"{'':4}--source {row['source']} --rule {row['rule']}; for example {row['example']!r}")
    if not found:
        print("quarantine has no such row")


def _show_quarantine(options: argparse.Namespace, rows: list[QuarantinedRow]) -> None:
    from msgspec import json as fast_json

    if options.json:
        print(fast_json.encode(rows).decode())
        return
    for row in rows:
        print(f"{row.origin} ({row.batch_id}), {row.kind} row {row.row_number}: {'; '.join(row.reasons)}")
        print(f"{'':4}{json.dumps(row.row, ensure_ascii=False)}")


def _diff(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import comparison

    found = comparison.diff(options.first, options.second)
    if options.json:
        print(json.dumps(comparison.as_json(found), default=str, ensure_ascii=False))
    else:
        print("\n".join(found.lines()))


def _retract(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import ingestion

    _print_result(options, vars(ingestion.retract_batch(options.batch_id, options.reason)))


def _forget(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import erasure

    _print_result(options, vars(erasure.erase_users(options.user_ids)))


def _maintain(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import maintenance

    _print_result(options, vars(maintenance.maintain(dry_run=options.dry_run)))


def _validate(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import ingestion

    (report,) = ingestion.validate_batches([options.batch_id])
    _print_result(options, vars(report))


def _features(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import features

    built = features.build_features(options.cutoff, options.as_of_change)
    _print_result(options, {**vars(built), "files": len(built.files)})


def _train(options: argparse.Namespace) -> None:
    from recsys_tasks.model.distributed import process_group
    from recsys_tasks.steps import training
    from recsys_tasks.training.processes import write_outcome

    def train() -> str:
        return training.train_model(options.snapshot, options.from_scratch, options.content_only)

    if options.train_only:
        write_outcome(options.train_only, train)
        return
    with process_group() as first:
        run_id = train()
    if not first:
        return
    if options.content_only:
        _print_result(options, {"run_id": run_id, "version": training.register_run(run_id)})
    else:
        _evaluate_and_register(options, run_id)


def _evaluate_and_register(options: argparse.Namespace, run_id: str) -> None:
    from recsys_tasks.steps import training

    table = training.evaluate_run(run_id)
    version = training.register_run(run_id)
    _print_result(
        options, {"run_id": run_id, "version": version, **{name: row["mrr_20"] for name, row in table.items()}}
    )


def _tune(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import training

    if options.join:
        training.run_trials(options.join, options.max_trials)
        return
    study = training.start_study(options.study, options.snapshot, options.minutes, options.trial_minutes)
    print(f"Study {study}; other processes can join it: python -m recsys_tasks tune --join {study}", file=sys.stderr)
    training.run_trials(study, options.max_trials)
    run_id = training.train_best(study)
    if run_id is None:
        _print_result(options, {"study": study, "result": "no trial was better than the recipe"})
    else:
        _evaluate_and_register(options, run_id)


def _reproduce(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import training

    run_id, metrics = training.reproduce(options.run_id)
    differing = sorted(name for name, (then, now) in metrics.items() if then != now)
    _print_result(
        options,
        {"run_id": run_id, **{name: f"{then:.6f}, retrained {now:.6f}" for name, (then, now) in metrics.items()}},
    )
    if differing:
        raise RecsysError(f"Run {run_id} differs from {options.run_id} in {', '.join(differing)}")


def _promote(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import promotion

    promoted = promotion.promote(options.version, _by_hand())
    _print_result(options, promoted._asdict())


def _rollback(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import promotion

    _print_result(options, {"version": promotion.roll_back(options.reason, _by_hand())})


def _by_hand() -> str:
    return f"{getpass.getuser()} by hand"


def _reconcile(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import promotion

    found = promotion.reconcile()
    _print_result(options, found._asdict())
    found.raise_problems()


def _console(options: argparse.Namespace) -> None:
    from recsys_tasks.console.app import run_console

    run_console(options.host, options.port)


def _serve(options: argparse.Namespace) -> None:
    from recsys_tasks.serving.server import serve

    serve(options.host, options.port, options.workers, options.open)


def _key(options: argparse.Namespace) -> None:
    from recsys_tasks.serving.access import new_key

    key, entry = new_key(options.name, options.scopes, options.origins, options.expires)
    if options.json:
        _print_result(options, {"key": key, "entry": entry})
    else:
        print(f"{key}\n\nThis is the key; it is shown only once. Its entry for RECSYS_KEYS_FILE:\n\n{entry}")


def _feedback(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import ingestion

    _print_counts(options, ingestion.load_feedback(ingestion.fetch_feedback()))


def _monitor(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import monitoring

    counted = monitoring.attribute_outcomes()
    found = monitoring.check_monitors()
    reaction = monitoring.react()
    lines = {("!! " if finding.fires else "") + finding.rule.name: finding.explanation for finding in found}
    followed = {"rolled_back_to": reaction.rolled_back_to, "retrain": bool(reaction.retrain)}
    _print_result(options, {"days": len(counted.days), "requests": counted.requests, **lines, **followed})


def _report(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import monitoring

    written = monitoring.report()
    if written is None:
        raise InputError("There are no attributed outcomes. Run the verbs feedback and monitor first")
    _print_result(options, {"report": str(written.file), "headlines": written.report.headlines})


def _simulate(options: argparse.Namespace) -> None:
    from recsys_tasks.steps.simulation import simulate

    days = range(options.first_day, options.first_day + options.days)
    stats = simulate(options.scenario, options.start, days, options.sessions, options.shoppers, options.k, options.seed)
    _print_result(options, {**stats.as_dict()})


def _benchmark(options: argparse.Namespace) -> None:
    from recsys_tasks.evaluation.benchmark import run_benchmark
    from recsys_tasks.model.distributed import process_group
    from recsys_tasks.training.hyperparameters import load_recipe

    with process_group() as first:
        files = (options.train, options.test, options.items)
        given = load_recipe(options.recipe)
        found = run_benchmark(*files, options.model, options.seed, options.minutes, options.strict, given)
    if not first:
        return
    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    _print_lines({name: value for name, value in found.items() if name != "curve"})


def _search_eval(options: argparse.Namespace) -> None:
    from recsys_tasks.steps.search import evaluate

    found = evaluate(options.url, options.queries, options.days)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    names = list(dict.fromkeys(name for metrics in found.values() for name in metrics))
    print(f"{'':20}" + "".join(f"{name:>16}" for name in names))
    for label, metrics in found.items():
        cells = (f"{metrics[name]:>16.4g}" if name in metrics else f"{'–':>16}" for name in names)
        print(f"{label:20}" + "".join(cells))


def _check(options: argparse.Namespace) -> None:
    from recsys_tasks.steps.installation import check_installation

    checks = check_installation(needs_airflow=not options.without_airflow)
    if options.json:
        print(json.dumps([check._asdict() for check in checks], ensure_ascii=False))
    else:
        for check in checks:
            print(f"{'ok' if check.is_ok else 'missing':8} {check.part}: {check.finding}")
    missing = [check.part for check in checks if not check.is_ok]
    if missing:
        raise InputError(f"missing or wrong: {', '.join(missing)}")


def _status(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import status

    found = status.status()
    if options.json:
        _print_result(options, found)
        return
    sources = found.pop("sources")
    _print_result(options, found)
    for source in sources:
        print()
        _print_result(options, source)


def _lineage(options: argparse.Namespace) -> None:
    from recsys_tasks.steps import status

    _print_result(options, status.lineage(options.request_id))
