"""The whole loop, round by round, through Airflow: `python benchmarks/loop.py --rounds 5 --scenario new_trend`.

In each round, simulated shoppers use the endpoint for a day; then Airflow collects feedback, attributes outcomes, runs
the monitors, builds features, trains and promotes. The gain of the champion's click-through over lists of the user's
most frequent items is printed with its 95 % confidence interval. With `--bad-model` one more round follows, after a
model with shuffled items was promoted through a gate without rules. Households, sessions and training times are small
unless `RECSYS_…` variables set them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sqlalchemy import text

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.experiments.online_metrics import CLICK_THROUGH, Rate
from recsys_tasks.experiments.verdicts import load_arm_metrics
from recsys_tasks.interval import Interval
from recsys_tasks.monitoring.report import describe_comparison
from recsys_tasks.registry.versions import Version
from recsys_tasks.settings import settings
from recsys_tasks.stack.loop import LoopRunner
from recsys_tasks.stack.services import running_stack
from recsys_tasks.steps import monitoring
from recsys_tasks.steps.simulation import simulate

_GATE_RULES = """
[baselines]
names = []
metrics = []
[champion]
metric = "mrr_20"
confidence = 0.95
min_gain = {min_gain}
"""
_MIN_GAIN = -0.1  # tolerates a tenth worse offline: the benchmark compares online metrics
_COPY_LOGIT_OFFSET = 30.0
_Z_95 = 1.96
_DECIDED = "decision in ('promoted', 'refused')"
_DEFAULTS = {
    "RECSYS_SAMPLE_USERS": "300",
    "RECSYS_MIN_ITEM_EVENTS": "5",
    "RECSYS_TRAINING_SECONDS": "60",
    "RECSYS_WARM_START_SECONDS": "45",
    "RECSYS_MAX_HELD_OUT_SESSIONS": "300",
    "RECSYS_FEEDBACK_SCHEDULE": "0 0 1 1 *",  # never by schedule: each round triggers it
    "RECSYS_EXPERIMENT_FILE": str(Path(__file__).with_name("loop_experiment.toml")),
}


def main() -> None:
    """Runs the rounds and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=2_000)
    parser.add_argument("--shoppers", type=int, default=300)
    parser.add_argument("--scenario")
    parser.add_argument("--bad-model", action="store_true")
    parser.add_argument(
        "--folder", type=Path, help="folder for the report and the chart of arms by day (SVG) of each round"
    )
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loop-") as folder:
        home = Path(folder).resolve()
        _prepare(home)
        began = time.monotonic()
        with running_stack(Console(width=160), home, ROOT / "dags") as (runner, _):
            rows, lines = _rounds(runner, args)
        seconds = time.monotonic() - began
    host = host_info("apache-airflow", "mlflow", "torch")
    print_table(f"The loop, {args.scenario or 'no scenario'}, {seconds:.0f} s", rows, host)
    print("\n".join(lines))
    write_json(args.json, {"rounds": rows, "lines": lines, "seconds": round(seconds), "machine": host})


def _prepare(home: Path) -> None:
    os.environ.update({name: os.environ.get(name, value) for name, value in _DEFAULTS.items()})
    os.environ |= {"RECSYS_HOME": str(home), "RECSYS_GATE_RULES": str(home / "gate.toml")}
    _write_gate(home, _MIN_GAIN)
    settings.cache_clear()


def _write_gate(home: Path, min_gain: float) -> None:
    (home / "gate.toml").write_text(_GATE_RULES.format(min_gain=min_gain), encoding="utf-8")


def _rounds(runner: LoopRunner, args: argparse.Namespace) -> tuple[list[dict[str, object]], list[str]]:
    rows: list[dict[str, object]] = []
    rates: list[Rate] = []
    lines: list[str] = []
    runner.unpause_dags()
    runner.run_until("first pass", "ingest_events", lambda: _count(runner, "promotions", "decision = 'promoted'") > 0)
    for number in range(args.rounds + args.bad_model):
        if number == args.rounds:
            _promote_bad_model(runner)
        serving = _champion(runner)
        simulate(args.scenario, runner.replay_from, range(number, number + 1), args.sessions, args.shoppers)
        num_decisions = _count(runner, "promotions", _DECIDED)
        runner.airflow.trigger("collect_feedback")
        runner.run_until(f"round {number + 1}", "collect_feedback", _has_new_decision(runner, num_decisions))
        row, rate = _row(runner, number, serving)
        rows.append(row)
        rates.append(rate)
        runner.console.print(row)
        lines += _report(number + 1, args.folder)
    last = rates[args.rounds - 1]
    lines.append(
        f"Round {args.rounds} against round 1: " + describe_comparison("click-through", last, "round 1", rates[0])
    )
    whole = Interval(runner.replay_from, runner.replay_from + timedelta(days=args.rounds))
    rates_of = _arm_rates(runner, whole)
    gain = describe_gain(rates_of["model"], rates_of["personal frequency"])
    lines.append(f"Gain of the champion's CTR over personal frequency in {args.rounds} rounds: {gain}")
    return rows, lines


def describe_gain(own: Rate, baseline: Rate) -> str:
    """Returns the relative gain of a rate over that of an independent arm with its 95 % confidence interval, which is
    symmetric in the logarithm of the ratio (delta method).
    """
    if not own.value or not baseline.value:
        return "unknown: an arm has no click"
    error = np.hypot(own.standard_error / own.value, baseline.standard_error / baseline.value)
    ratio = own.value / baseline.value
    low, high = (ratio * np.exp(sign * _Z_95 * error) - 1 for sign in (-1, 1))
    return f"{ratio - 1:+.1%} ({low:+.1%} to {high:+.1%})"


def _arm_rates(runner: LoopRunner, between: Interval) -> dict[str, Rate]:
    with runner.warehouse.connect() as connection:
        found = load_arm_metrics(connection, between)
    return {arm: figures.rates[CLICK_THROUGH] for (_, arm), figures in found.items()}


def _report(number: int, folder: Path | None) -> list[str]:
    """Writes and copies the report after a round; returns its headlines."""
    written = monitoring.report()
    if written is None:
        return []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"round-{number}.html").write_bytes(written.file.read())
        (folder / f"round-{number}.svg").write_text(written.report.charts["days"], encoding="utf-8")
    print("\n".join(written.report.headlines), flush=True)
    return [f"After round {number}: {line}" for line in written.report.headlines]


def _has_new_decision(runner: LoopRunner, num_decisions: int) -> Callable[[], bool]:
    """Returns a condition: the gate decided on a new version."""
    return lambda: _count(runner, "promotions", _DECIDED) > num_decisions


def _row(runner: LoopRunner, number: int, serving: str) -> tuple[dict[str, object], Rate]:
    day = (runner.replay_from + timedelta(days=number)).date()
    with runner.warehouse.connect() as connection:
        alarms = connection.execute(text("select rule, action, outcome from alarms order by alarm_id")).all()
        decided = connection.execute(
            text("select model_version || ' ' || decision from promotions order by promotion_id desc limit 1")
        ).scalar()
    rates = _arm_rates(runner, Interval.of_day(day))
    own, popular = rates["model"], rates["popularity"]
    row = {
        "round": number + 1,
        "served": serving,
        "click_through": f"{own.value:.2%} ({own.low:.2%} to {own.high:.2%})",
        "popularity": f"{popular.value:.2%} ({popular.low:.2%} to {popular.high:.2%})",
        "personal frequency": str(rates["personal frequency"]),
        "gain over it": describe_gain(own, rates["personal frequency"]),
        "previous version": f"{rates['previous version'].value:.2%}" if "previous version" in rates else "",
        "alarms so far": "; ".join(f"{alarm.rule}: {alarm.outcome or alarm.action}" for alarm in alarms),
        "then": decided,
        "serves": _champion(runner),
    }
    return row, own


def _promote_bad_model(runner: LoopRunner) -> None:
    """Promotes a bad model through a gate that accepts it."""
    from recsys_tasks.registry import versions
    from recsys_tasks.steps.training import evaluate_run, register_run

    run_id = log_mixed_up_model(versions.version_by_number(_champion(runner)))
    evaluate_run(run_id)
    number = register_run(run_id)
    _write_gate(settings().home, min_gain=-9.0)
    runner.airflow.trigger("promote_model", version=number)
    runner.run_until("the bad model", "ingest_events", lambda: _champion(runner) == number)
    _write_gate(settings().home, _MIN_GAIN)


def log_mixed_up_model(version: Version) -> str:
    """Logs a run with a version's network without copying and with shuffled item ids; returns the run's id."""
    from recsys_tasks.features.vocabulary import Vocabulary
    from recsys_tasks.model.export import export_graphs
    from recsys_tasks.model.files import TrainedModel, save_model
    from recsys_tasks.registry import runs
    from recsys_tasks.registry.tracking import client
    from recsys_tasks.steps.features import snapshot
    from recsys_tasks.training.evaluation import load_run_model

    model = load_run_model(version.run_id)
    with torch.no_grad():
        model.network.age_offset.sub_(_COPY_LOGIT_OFFSET)
    order = np.random.default_rng(0).permutation(len(model.vocabulary.item_ids))
    known: Vocabulary = model.vocabulary
    shuffled = Vocabulary(
        item_ids=tuple(known.item_ids[place] for place in order),
        titles=known.titles,
        category_paths=known.category_paths,
        brands=known.brands,
        counts=known.counts,
    )
    source, tags = snapshot(version.snapshot_id), {"started_from": version.number}
    parameters = {**client().get_run(version.run_id).data.params, "mixed_up": True}
    with runs.start_run(source, parameters, tags) as mixed_up, tempfile.TemporaryDirectory() as folder:
        save_model(TrainedModel(model.network, shuffled), Path(folder))
        export_graphs(model.network, Path(folder))
        runs.log_model(mixed_up, Path(folder))
    return mixed_up


def _champion(runner: LoopRunner) -> str:
    from recsys_tasks.promotion.deployment_record import read_state

    return read_state(runner.warehouse).served[-1].model_version


def _count(runner: LoopRunner, table: str, where: str) -> int:
    with runner.warehouse.connect() as connection:
        found: Any = connection.scalar(text(f"select count(*) from {table} where {where}"))
    return int(found)


if __name__ == "__main__":
    main()
