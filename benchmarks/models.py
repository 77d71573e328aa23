"""Comparison of models on public data sets: `python benchmarks/models.py run FOLDER`, then `table` and `curves`.

`run` takes a folder of data sets, each with `train.parquet`, `test.parquet` and optionally `item_attributes.parquet`,
runs `python -m recsys_tasks benchmark` for each model and seed that has no result yet, and stores the results in
`benchmarks/results`. With `--peer PYTHON`, the interpreter of an environment made from
`benchmarks/peers/requirements.txt`, RecTools' SASRec is trained on the same files and judged by our code. `table`
prints the results as Markdown beside published ones; `curves` draws the learning curves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from recsys_tasks.evaluation.benchmark import evaluate_scorer
from recsys_tasks.evaluation.protocol import PredictionTasks, Scorer
from recsys_tasks.evaluation.sequence_files import SequenceDataset, load_sequence_dataset
from recsys_tasks.training import recipe

RESULTS = ROOT / "benchmarks" / "results"
MODELS: tuple[str, ...] = ("transformer", "network", "decoder", "gru", "lstm", "vmis_knn", "item_knn")
MODELS += ("personal_frequency", "recent_popularity", "popularity")
PEER = "rectools_sasrec"
_PEER_SCRIPT = ROOT / "benchmarks" / "peers" / "rectools_sasrec.py"
# Published results on the same files: https://github.com/asash/gSASRec-pytorch, antklen/sasrec-bert4rec-recsys23,
# blondered/transformer_benchmark; SR-GNN and GCE-GNN as commonly cited.
PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "diginetica": {
        "SR-GNN": {"recall_20": 0.5073, "mrr_20": 0.1759},
        "GCE-GNN": {"recall_20": 0.5422, "mrr_20": 0.1904},
    },
    "ml-1m": {
        "BERT4Rec": {"recall_10": 0.2843, "ndcg_10": 0.1537},
        "gSASRec": {"recall_10": 0.3003, "ndcg_10": 0.1726},
        "SASRec, cross-entropy": {"recall_10": 0.3152, "ndcg_10": 0.1821},
        "SASRec, 3,000 negatives": {"recall_10": 0.3159, "ndcg_10": 0.1857},
    },
    "beauty": {
        "HSTU": {"recall_10": 0.0788, "ndcg_10": 0.0439},
        "eSASRec": {"recall_10": 0.0928, "ndcg_10": 0.0523},
        "SASRec, sampled softmax": {"recall_10": 0.0921, "ndcg_10": 0.0531},
    },
    "nowplaying": {
        "GCE-GNN": {"recall_20": 0.2237, "mrr_20": 0.0840},
        "S²-DHCN": {"recall_20": 0.2350, "mrr_20": 0.0818},
    },
    "complete-journey": {},
}
_METRICS = ("recall_10", "ndcg_10", "recall_20", "mrr_20")


def main() -> None:
    """Runs the chosen verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    run = verbs.add_parser("run")
    run.add_argument("folder", type=Path)
    run.add_argument("--data", nargs="+", default=list(PUBLISHED))
    run.add_argument("--models", nargs="+", default=MODELS)
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument("--minutes", type=float, default=15.0)
    run.add_argument("--strict", action="store_true", help="item ids only, no training on the item before the target")
    run.add_argument("--peer", metavar="PYTHON", help="interpreter of an environment with RecTools; adds its SASRec")
    run.set_defaults(verb=_run)
    verbs.add_parser("table").set_defaults(verb=_table)
    verbs.add_parser("curves").set_defaults(verb=_curves)
    args = parser.parse_args()
    args.verb(args)


def _run(args: argparse.Namespace) -> None:
    RESULTS.mkdir(exist_ok=True)
    models = [*args.models, PEER] if args.peer else args.models
    for data in args.data:
        for seed in args.seeds:
            for model in models:
                out = RESULTS / f"{data}-{model}{'-strict' if args.strict else ''}-{seed}.json"
                if out.exists():
                    continue
                print(f"{data}, {model}, seed {seed}", flush=True)
                if model == PEER:
                    found = _measure_peer(args.peer, args.folder / data, seed, args.minutes, args.strict)
                    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
                else:
                    command = _command(args.folder / data, model, seed, args.minutes, args.strict, out)
                    subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603


def _command(data: Path, model: str, seed: int, minutes: float, strict: bool, out: Path) -> list[str]:
    command = [sys.executable, "-m", "recsys_tasks", "benchmark", "--model", model, "--json", str(out)]
    command += ["--train", str(data / "train.parquet"), "--test", str(data / "test.parquet")]
    items = data / "item_attributes.parquet"
    if strict:
        command.append("--strict")
    elif items.exists():
        command += ["--items", str(items)]
    return [*command, "--seed", str(seed), "--minutes", str(minutes)]


def _measure_peer(python: str, data: Path, seed: int, minutes: float, strict: bool) -> dict[str, Any]:
    """Returns what `python -m recsys_tasks benchmark` stores of a model, for RecTools' SASRec, which has ids only."""
    files = data / "train.parquet", data / "test.parquet"
    dataset = load_sequence_dataset(*files, None, seed, strict)
    with tempfile.TemporaryDirectory() as folder:
        vectors = Path(folder) / "vectors.npz"
        command = [python, str(_PEER_SCRIPT), "vectors", *map(str, files), str(vectors)]
        command += ["--seed", str(seed), "--minutes", str(minutes)] + ["--strict"] * strict
        # Only items of the session are excluded, and RecTools knows no sessions within a sequence.
        if not (dataset.has_history or recipe.sessions_repeat(dataset.data)):
            command.append("--exclude-seen")
        trained = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
        with np.load(vectors) as found:
            scorer = _peer_scorer(dataset, found["item_ids"].tolist(), found["items"], found["sessions"])
    figures: dict[str, Any] = json.loads(trained.stdout.splitlines()[-1])
    return {"model": PEER, "seed": seed, "strict": strict, **evaluate_scorer(dataset, scorer), **figures}


def _peer_scorer(dataset: SequenceDataset, ids: list[str], items: np.ndarray, sessions: np.ndarray) -> Scorer:
    """Returns a scorer by vectors of items and of test sessions [S, D], in the order of the test file."""
    vocabulary, user = dataset.encoded.vocabulary, dataset.data.timeline.user
    numbers, first = vocabulary.numbers(ids), user[dataset.test.target[0]]

    def scores(tasks: PredictionTasks) -> np.ndarray:
        found = np.full((len(tasks), len(vocabulary)), -np.inf, np.float32)
        found[:, numbers] = sessions[user[tasks.target] - first] @ items.T
        return found

    return scores


def _table(args: argparse.Namespace) -> None:
    print(f"| data | model | {' | '.join(_METRICS)} | seeds | CPU minutes |")
    print(f"|{'---|' * (len(_METRICS) + 4)}")
    for data, published in PUBLISHED.items():
        for model, metrics in published.items():
            shown = [f"{metrics[name]:.4f}" if name in metrics else "" for name in _METRICS]
            print(f"| {data} | {model}, as published | {' | '.join(shown)} | | |")
        for model, runs in _results(data).items():
            shown = [_mean([run[name] for run in runs]) for name in _METRICS]
            minutes = statistics.mean(run["train_seconds"] * run.get("threads", 1) for run in runs) / 60
            print(f"| {data} | {model} | {' | '.join(shown)} | {len(runs)} | {minutes:.1f} |")


def _results(data: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(RESULTS.glob(f"{data}-*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        found[run["model"] + (", strict" if run.get("strict") else "")].append(run)
    return dict(sorted(found.items(), key=lambda entry: (*MODELS, PEER).index(entry[0].removesuffix(", strict"))))


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _curves(args: argparse.Namespace) -> None:
    figure = Figure(figsize=(14, 4), layout="constrained")
    drawn = [data for data in PUBLISHED if any(runs[0].get("curve") for runs in _results(data).values())]
    for column, data in enumerate(drawn, start=1):
        axes = figure.add_subplot(1, len(drawn), column, title=data, xlabel="minutes", ylabel="MRR@20 in validation")
        for model, runs in _results(data).items():
            curve = [epoch for epoch in runs[0].get("curve", []) if "validation" in epoch]
            if curve:
                minutes = [epoch["seconds"] / 60 for epoch in curve]
                axes.plot(minutes, [epoch["validation"] for epoch in curve], marker=".", label=model)
        axes.legend()
    figure.savefig(ROOT / "benchmarks" / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
