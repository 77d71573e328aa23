import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import torch
from recsys_tasks.model.distributed import process_group
from recsys_tasks.model.training_loop import TrainingConfig, build_network, train
from tests.shops import encoded_shop, small_config, training_data

with process_group() as first:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shop = encoded_shop(users=30)
    network = build_network(small_config(shop.vocabulary), shop.vocabulary)
    config = TrainingConfig(epochs=5, seconds=600, num_negatives=32, batch_tokens=256)
    report = train(network, training_data(shop), config, lambda _: 0.0)
    if first:
        with open(sys.argv[1], "w") as file:
            json.dump([epoch["loss"] for epoch in report.epochs], file)
"""


def _losses(command: list[str], folder: Path) -> list[float]:
    script, losses = folder / "train.py", folder / "losses.json"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    completed = subprocess.run(
        [sys.executable, *command, str(script), str(losses)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    found: list[float] = json.loads(losses.read_text())
    losses.unlink()
    return found


def test_two_processes_reach_the_losses_of_one(tmp_path: Path) -> None:
    alone = _losses([], tmp_path)
    together = _losses(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"], tmp_path)
    assert len(alone) >= 5
    assert together == pytest.approx(alone, rel=0.02)
    assert together[-1] < together[0]
