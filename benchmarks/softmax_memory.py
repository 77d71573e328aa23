"""Memory and time of one step's softmax over many items: `python benchmarks/softmax_memory.py --items 1000000`.

The loss of a batch of states and its gradients of states and item vectors, each kind in a process of its own: scores of
all items at once (cross entropy as in the textbook), all items in chunks with fused gradients, and sampled negatives.
Memory is the peak above what the process held before the step; the item vectors and their gradients are part of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.model.network import ItemTable
from recsys_tasks.model.softmax import log_mass
from recsys_tasks.model.tensors import MASKED, ItemInputs, NetworkConfig

_KINDS = ("all at once", "all in chunks", "sampled")
_MEGABYTE = 1024  # kilobytes


def main() -> None:
    """Prints a row for each kind of softmax."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--states", type=int, default=1_024)
    parser.add_argument("--negatives", type=int, default=1_024)
    parser.add_argument("--json")
    parser.add_argument("--kind", choices=_KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.kind:
        print(json.dumps(_measure(args.kind, args.items, args.width, args.states, args.negatives)))
        return
    rows: list[dict[str, object]] = []
    for kind in _KINDS:
        command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
        rows.append({"softmax": kind, **json.loads(done.stdout)})
    host = host_info("torch") | {"threads": str(torch.get_num_threads())}
    title = f"{args.items:,} items, width {args.width}, {args.states} states, {args.negatives} negatives"
    print_table(title, rows, host)
    write_json(args.json, {"rows": rows, "machine": host})


def _measure(kind: str, items: int, width: int, states: int, negatives: int) -> dict[str, float]:
    torch.manual_seed(0)
    config = NetworkConfig(num_items=items, embedding_dim=width)
    nothing = torch.zeros(items, 0)
    table = ItemTable(config, ItemInputs(nothing.long(), nothing, nothing, torch.zeros(items), nothing.long()))
    state = nn.Parameter(torch.randn(states, width))
    target, sample = torch.randint(2, items, (states,)), torch.randint(2, items, (negatives,))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here on
    before, started = _resident_kilobytes("VmRSS"), time.perf_counter()
    loss = _LOSSES[kind](table, state, target, sample)
    loss.backward()
    seconds = time.perf_counter() - started
    used = _resident_kilobytes("VmHWM") - before
    return {"MB": round(used / _MEGABYTE), "seconds": round(seconds, 2)}


def _resident_kilobytes(field: str) -> int:
    """Memory of this process now (`VmRSS`), or its peak (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _at_once(table: ItemTable, state: Tensor, target: Tensor, _: Tensor) -> Tensor:
    return F.cross_entropy(state @ table.matrix().T + table.bias, target, reduction="sum")


def _in_chunks(table: ItemTable, state: Tensor, target: Tensor, _: Tensor) -> Tensor:
    vectors = table.matrix()
    none, weight = torch.full((len(state),), MASKED), torch.ones(len(state))
    total = log_mass(state, vectors, table.bias, none, weight)
    return total - ((state * F.embedding(target, vectors)).sum(-1) + table.bias[target]).sum()


def _sampled(table: ItemTable, state: Tensor, target: Tensor, sample: Tensor) -> Tensor:
    of_target = (state * table(target)).sum(-1) + table.bias[target]
    weight = torch.ones(len(state))
    return log_mass(state, table(sample), table.bias[sample], of_target, weight, (sample, target)) - of_target.sum()


_LOSSES = dict(zip(_KINDS, (_at_once, _in_chunks, _sampled), strict=True))

if __name__ == "__main__":
    main()
