"""Training speed of RecTools' SASRec on a sequence file, printed as JSON. Runs in a separate environment."""

import json
import sys
import time
from importlib.metadata import version

import pandas as pd
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def main() -> None:
    """Trains one epoch, data preparation included."""
    path, sizes = sys.argv[1], json.loads(sys.argv[2])
    events = pd.read_parquet(path)
    events = events.rename(columns={"sequence_id": "user_id"}).assign(weight=1.0)
    events["datetime"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(events.pop("position"), unit="h")
    model = SASRecModel(
        session_max_len=sizes["length"],
        n_negatives=sizes["negatives"],
        n_factors=sizes["width"],
        n_blocks=sizes["layers"],
        n_heads=sizes["heads"],
        dropout_rate=sizes["dropout"],
        loss="sampled_softmax",
        epochs=1,
        verbose=0,
        train_min_user_interactions=2,
    )
    began = time.perf_counter()
    model.fit(Dataset.construct(events))
    seconds = time.perf_counter() - began
    print(json.dumps({"tokens_per_s": len(events) / seconds, "version": version("rectools")}))


if __name__ == "__main__":
    main()
