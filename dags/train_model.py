"""Trains a model on a snapshot and registers it as the challenger."""

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, task

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Trains the encoder-decoder Transformer on a snapshot, starting from the champion's weights if there is a champion. If
`monitor_feedback` asks for a retraining (asset `retraining`), trains from scratch with the whole time budget. Evaluates
the model and the baselines on the snapshot's test part, and registers the model as `session-recommender` with the alias
`challenger`.

**Reads** a snapshot. **Writes** an MLflow run with parameters, metrics per epoch, evaluation and model, and the asset
`challenger`.

### Run it again
Safe: another run with the same snapshot, seed and threads gives the same model under a new version (not in several
processes). For an older snapshot, trigger it with `{"snapshot_id": "…"}`; to train from scratch, with
`{"from_scratch": true}`.

### When it fails
* `InputError`: there is no snapshot, or none with that id.
* `NotEnoughData`: the catalog is empty, or no event is before the validation part. Ingest more. Too few sessions are no
  failure: the version then only places items by content.
* `InvariantError: The loss is nan`: the message names the batch. Train from scratch, or with another `RECSYS_SEED`.
* `OutOfMemory`: the batch size follows from the data. Use fewer items (a higher `RECSYS_MIN_ITEM_EVENTS`), or a shorter
  `RECSYS_TRAINING_SECONDS`, which trains a smaller network from scratch.
* `UnavailableError`: MLflow, the warehouse or the store does not answer. Airflow retries the task.
* `TrainingProcessesFailed`: with `RECSYS_TRAINING_PROCESSES`, processes died after three restarts; see the log.
"""


@loop.recsys_dag(
    DOC,
    schedule=(loop.SNAPSHOT | loop.RETRAINING),
    task_args={"execution_timeout": timedelta(hours=6), **loop.TRAINING_TASK},
    params={
        "snapshot_id": Param(None, type=["null", "string"], description="default: the triggering or the latest one"),
        "from_scratch": Param(False, type="boolean", description="ignore the champion's weights"),
    },
    tags=["model", "tier:2"],
)
def train_model() -> None:
    @task(inlets=[loop.SNAPSHOT])
    @loop.step
    def train(params: Any = None, triggering_asset_events: Any = None) -> str:
        from recsys_tasks.steps import training

        snapshot_id = params["snapshot_id"] or loop.get_event_extra(triggering_asset_events, "snapshot_id")
        is_retraining = loop.get_event_extra(triggering_asset_events, "alarm") is not None
        return training.train_model(snapshot_id, from_scratch=params["from_scratch"] or is_retraining)

    @task(inlets=[loop.SNAPSHOT])
    @loop.step
    def evaluate(training_run: str) -> str:
        from recsys_tasks.steps import training

        metrics_by_model = training.evaluate_run(training_run)
        loop.add_note(
            ", ".join(f"{name}: MRR@20 {metrics['mrr_20']:.4f}" for name, metrics in metrics_by_model.items())
        )
        return training_run

    @task(outlets=[loop.CHALLENGER_VERSION])
    @loop.step
    def register(training_run: str, outlet_events: Any = None) -> str:
        return loop.register_challenger(training_run, outlet_events)

    register(evaluate(train()))


train_model()
