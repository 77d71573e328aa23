"""The Complete Journey as sequence files: `python benchmarks/complete_journey.py FOLDER`.

Purchases of one year from the project's snapshot. The targets are the last items of the baskets in the last 8 % of the
time, after the household's history. Training has all earlier events, without items bought fewer than ten times, as in
the pipeline's vocabulary. Baskets that end with such an item count as missed by every model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from recsys_tasks.features.encoded_snapshot import build_vocabulary, load_events
from recsys_tasks.features.snapshot import latest_snapshot_id, open_snapshot
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import engine

SHARE = 0.08


def main() -> None:
    """Writes the files from the warehouse of `RECSYS_HOME`, after `ingest` and `features`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    snapshot = open_snapshot(settings().snapshots, latest_snapshot_id(engine()))
    vocabulary = build_vocabulary(snapshot)
    events, *_ = load_events(snapshot, vocabulary)
    table = pd.DataFrame(
        {
            "user": events.user,
            "session_id": events.session,
            "item_id": events.item,
            "event_time": pd.to_datetime(events.seconds, unit="s", utc=True),
            "began": events.session_seconds,
        }
    )
    cut = np.quantile(table["event_time"], 1 - SHARE)
    known = table["item_id"].between(FIRST_ITEM, vocabulary.num_trained, inclusive="left")
    training = table[known & (pd.to_datetime(table["began"], unit="s", utc=True) < cut)]
    args.folder.mkdir(parents=True, exist_ok=True)
    columns = ["sequence_id", "position", "item_id", "session_id", "event_time"]
    _add_positions(training, training["user"])[columns].to_parquet(args.folder / "train.parquet", index=False)
    _test_sequences(table, cut)[columns].to_parquet(args.folder / "test.parquet", index=False)


def _test_sequences(table: pd.DataFrame, cut: pd.Timestamp) -> pd.DataFrame:
    """Returns each late basket of at least two items, preceded by the last 512 events of its household."""
    asked = []
    late = pd.to_datetime(table["began"], unit="s", utc=True) >= cut
    for _, timeline in table.groupby("user", sort=False):
        for session, basket in timeline[late.loc[timeline.index]].groupby("session_id", sort=False):
            if len(basket) > 1:
                before = timeline.loc[: basket.index[0] - 1].tail(512)
                asked.append(pd.concat([before, basket]).assign(asked=session))
    found = pd.concat(asked)
    return _add_positions(found, found["asked"] + int(table["user"].max()) + 1)


def _add_positions(table: pd.DataFrame, sequence: pd.Series) -> pd.DataFrame:
    table = table.assign(sequence_id=sequence)
    return table.assign(position=table.groupby("sequence_id").cumcount())


if __name__ == "__main__":
    main()
