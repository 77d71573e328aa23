"""RecTools' SASRec on sequence files, in a separate environment: `speed TRAIN SIZES`, or `vectors TRAIN TEST OUT`.

`speed` trains for one epoch and prints the throughput as JSON. `vectors` trains for a time and writes the vectors of
the items and of the test sessions without their last events, whose products are the model's scores; it prints
statistics of the training as JSON.

`vectors` trains eSASRec (Tikhonovich et al. 2025, https://arxiv.org/abs/2508.06450: LiGR layers, sampled softmax) with
the settings that its authors publish for leave-one-out evaluation, https://github.com/blondered/transformer_benchmark.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.ligr import LiGRLayers

# The table in their README; the configuration file of Beauty has 256 factors, several times slower on a CPU.
MOVIELENS = {"n_factors": 64, "n_blocks": 2, "n_heads": 1, "dropout_rate": 0.1, "session_max_len": 200}
BEAUTY = {"n_factors": 64, "n_blocks": 1, "n_heads": 1, "dropout_rate": 0.2, "session_max_len": 50}
_LONG_SEQUENCES = 50  # mean events of a sequence from which MovieLens' settings are used
_MAX_EPOCHS, _PATIENCE, _BATCH = 200, 50, 128
_VALIDATION_BATCHES = 16  # 2,048 sequences


def main() -> None:
    """Runs the chosen verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    speed = verbs.add_parser("speed")
    speed.add_argument("train", type=Path)
    speed.add_argument("sizes", type=json.loads)
    speed.set_defaults(verb=_speed)
    vectors = verbs.add_parser("vectors")
    vectors.add_argument("train", type=Path)
    vectors.add_argument("test", type=Path)
    vectors.add_argument("out", type=Path)
    vectors.add_argument("--seed", type=int, default=0)
    vectors.add_argument("--minutes", type=float, default=15.0)
    vectors.add_argument("--strict", action="store_true", help="no training on the item before the target")
    vectors.add_argument("--exclude-seen", action="store_true", help="as the caller does: never recommend items again")
    vectors.set_defaults(verb=_vectors)
    args = parser.parse_args()
    print(json.dumps(args.verb(args) | {"version": version("rectools")}))


def _speed(args: argparse.Namespace) -> dict[str, Any]:
    """Trains one epoch, data preparation included."""
    events, sizes = _read(args.train), args.sizes
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
    return {"tokens_per_s": len(events) / (time.perf_counter() - began)}


def _vectors(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    seed_everything(args.seed)
    train, test = _read(args.train), _read(args.test)
    test["user_id"] = pd.factorize(test["user_id"])[0]  # the caller knows test sequences by their place in the file
    contexts = test[test["user_id"].duplicated(keep="last")].reset_index(drop=True)
    # A strict evaluation withholds the item before the target, which only test sequences that continue training
    # sequences have.
    continued = contexts["item_id"].equals(train["item_id"])
    settings = MOVIELENS if len(train) > _LONG_SEQUENCES * train["user_id"].nunique() else BEAUTY
    # Padding costs as much time as events do.
    length = int(train["user_id"].value_counts().quantile(0.99))
    with tempfile.TemporaryDirectory() as folder:
        model = SASRecModel(
            **settings | {"session_max_len": min(length, settings["session_max_len"])},
            loss="sampled_softmax",
            n_negatives=256,
            lr=0.001,
            batch_size=_BATCH,
            transformer_layers_type=LiGRLayers,
            use_key_padding_mask=True,
            get_val_mask_func=_held_out,
            get_val_mask_func_kwargs={"every_sequence": args.strict and continued},
            get_trainer_func=_trainer,
            get_trainer_func_kwargs={
                "seconds": 60 * args.minutes,
                "exclude_seen": args.exclude_seen,
                "folder": folder,
            },
        )
        began = time.perf_counter()
        model.fit(Dataset.construct(train))
        seconds = time.perf_counter() - began
        trainer = model.fit_trainer
        model.load_weights_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    np.savez(args.out, **_encode(model, contexts, test["user_id"].nunique()))
    is_time_up = next(c for c in trainer.callbacks if isinstance(c, Timer)).time_remaining() <= 0
    return {
        "train_seconds": seconds,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "stopped_by": "seconds" if is_time_up else "patience",
        "validation_recall_10": float(trainer.checkpoint_callback.best_model_score),
        "parameters": sum(weight.numel() for weight in model.torch_model.parameters()),
        "threads": torch.get_num_threads(),
    }


def _read(path: Path) -> pd.DataFrame:
    """Returns a sequence file as RecTools' interactions."""
    events = pd.read_parquet(path, columns=["sequence_id", "position", "item_id"])
    events = events.rename(columns={"sequence_id": "user_id"}).assign(weight=1.0)
    events["datetime"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(events.pop("position"), unit="h")
    return events


def _held_out(events: pd.DataFrame, every_sequence: bool) -> np.ndarray:
    """Returns whether events [N] are for validation only: the last ones of sequences of at least three events.

    Those of every sequence, or of as many of the last sequences in the file as are validated on.
    """
    sequence = events["user_id"]
    is_last = ~sequence.duplicated(keep="last") & (sequence.map(sequence.value_counts()) >= 3)
    chosen = np.flatnonzero(is_last)
    mask = np.zeros(len(events), dtype=bool)
    mask[chosen if every_sequence else chosen[-_VALIDATION_BATCHES * _BATCH :]] = True
    return mask


def _trainer(seconds: float, exclude_seen: bool, folder: str) -> Trainer:
    """Returns a trainer that stops when the time is up or validation stops improving, and keeps the best weights."""
    best: dict[str, Any] = {"monitor": "recall_10", "mode": "max"}
    return Trainer(
        max_epochs=_MAX_EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=_VALIDATION_BATCHES,
        callbacks=[
            _Recall(exclude_seen),
            Timer(timedelta(seconds=seconds), verbose=False),
            EarlyStopping(**best, patience=_PATIENCE),
            ModelCheckpoint(folder, **best, save_on_train_epoch_end=False),
        ],
    )


class _Recall(Callback):
    """Logs the share of held-out events among the first ten of all items."""

    def __init__(self, exclude_seen: bool) -> None:
        self.exclude_seen = exclude_seen

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, torch.Tensor],
        batch: dict[str, torch.Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ranks the items of a batch."""
        network, items = pl_module.torch_model, pl_module.item_embs
        scores = network.similarity_module(network.encode_sessions(batch, items)[:, -1], items)
        scores[:, 0] = -torch.inf  # padding
        if self.exclude_seen:
            scores.scatter_(1, batch["x"], -torch.inf)
        hits = (scores.topk(10).indices == batch["y"]).any(1).float()
        pl_module.log("recall_10", hits.mean(), on_epoch=True, batch_size=len(hits))


def _encode(model: SASRecModel, contexts: pd.DataFrame, num_sessions: int) -> dict[str, np.ndarray]:
    """Returns ids and vectors of the known items, and vectors of sessions; zeros where no item is known."""
    data = model.data_preparator
    known = data.transform_dataset_u2i(Dataset.construct(contexts), contexts["user_id"].unique())
    network = model.torch_model.eval()
    with torch.inference_mode():
        items = network.item_model.get_all_embeddings()
        batches = data.get_dataloader_recommend(known, model.recommend_batch_size)
        found = torch.cat([network.encode_sessions(batch, items)[:, -1] for batch in batches]).numpy()
    sessions = np.zeros((num_sessions, found.shape[1]), np.float32)
    sessions[known.user_id_map.external_ids.astype(np.int64)] = found
    return {
        "item_ids": data.get_known_item_ids().astype(str),
        "items": items[data.get_known_items_sorted_internal_ids()].numpy(),
        "sessions": sessions,
    }


if __name__ == "__main__":
    main()
