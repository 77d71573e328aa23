"""Throughput of the training loop: `python benchmarks/training.py [--seconds 30] [--peer PYTHON]`.

Two layers of width 64 are trained on 2,000 sequences of 200 events over 10,000 items, with 256 negatives shared by a
batch. For comparison, RecTools trains its SASRec on the same events with the same sizes, in a separate environment:

    python3.11 -m venv /tmp/rectools
    /tmp/rectools/bin/pip install -r benchmarks/peers/requirements.txt
    python benchmarks/training.py --peer /tmp/rectools/bin/python
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.evaluation.sequence_files import load_sequence_dataset
from recsys_tasks.model.training_loop import TrainingConfig, build_network, train
from recsys_tasks.training import recipe

SEQUENCES, LENGTH, ITEMS, NEGATIVES, WIDTH, LAYERS, HEADS, DROPOUT = 2_000, 200, 10_000, 256, 64, 2, 2, 0.2
_PEER = Path(__file__).parent / "peers" / "rectools_sasrec.py"


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of our training")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--peer", help="Python interpreter of an environment with RecTools")
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        events = _events()
        path = Path(folder) / "events.parquet"
        events.to_parquet(path, index=False)
        ours = _measure_ours(path, args.seconds, args.batch_tokens)
        peer = _measure_peer(path, args.peer) if args.peer else None
    rows: list[dict[str, object]] = [{"model": "this project", "tokens/s": ours}]
    if peer is not None:
        rows.append({"model": f"RecTools {peer['version']} SASRec", "tokens/s": peer["tokens_per_s"]})
    host = host_info("torch") | {"threads": str(torch.get_num_threads())}
    print_table(f"Training, {LAYERS} layers, width {WIDTH}, length {LENGTH}, {NEGATIVES} negatives", rows, host)
    fields = {"tokens_per_s": ours, "peer_tokens_per_s": peer and peer["tokens_per_s"], "machine": host}
    write_json(args.json, fields)


def _events() -> pd.DataFrame:
    """Returns sequences of items by Zipf's law, one event per row."""
    random = np.random.default_rng(0)
    weight = 1 / np.arange(1, ITEMS + 1) ** 0.8
    items = random.choice(ITEMS, (SEQUENCES, LENGTH), p=weight / weight.sum())
    return pd.DataFrame(
        {
            "sequence_id": np.repeat(np.arange(SEQUENCES), LENGTH),
            "position": np.tile(np.arange(LENGTH), SEQUENCES),
            "item_id": items.ravel(),
        }
    )


def _measure_ours(path: Path, seconds: float, batch_tokens: int) -> float:
    task = load_sequence_dataset(path, path, None, seed=0)
    vocabulary = task.encoded.vocabulary
    config = replace(
        recipe.network_config(task.data, vocabulary, history=False, seconds=seconds),
        sessions_repeat=False,
        embedding_dim=WIDTH,
        num_decoder_layers=LAYERS,
        num_heads=HEADS,
        dropout=DROPOUT,
        ffn_multiplier=1,  # as in SASRec
    )
    torch.manual_seed(0)
    network = build_network(config, vocabulary)
    schedule = TrainingConfig(
        epochs=1_000,
        seconds=seconds,
        window_size=LENGTH,
        batch_tokens=batch_tokens,
        num_negatives=NEGATIVES,
        patience=1_000,
    )
    return train(network, task.data, schedule, lambda _: 0.0).tokens_per_second


def _measure_peer(path: Path, python: str) -> dict[str, float]:
    sizes = {"length": LENGTH, "negatives": NEGATIVES, "width": WIDTH, "layers": LAYERS, "heads": HEADS}
    found = subprocess.run(  # noqa: S603
        [python, str(_PEER), "speed", str(path), json.dumps(sizes | {"dropout": DROPOUT})],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise SystemExit(f"RecTools failed: {found.stderr[-2000:]}")
    measured: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
