"""A snapshot into a registered challenger."""

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, task

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Trains the encoder-decoder Transformer on a snapshot, from the champion's weights where there is a champion, or from
the start, with the whole time budget, where `monitor_feedback` asks for that (asset `retraining`); evaluates it and the
baselines on the snapshot's test part; registers it as `session-recommender` with the alias `challenger`.

**Reads** a snapshot. **Writes** an MLflow run with parameters, metrics per epoch, the evaluation and the model,
and the asset `challenger`.

### Run it again
Safe: a new run of the same snapshot, seed and threads gives the same model under a new version. For an older
snapshot: trigger it with `{"snapshot_id": "…"}`; from the start: `{"from_scratch": true}`.

### When it fails
* `InputError`: there is no snapshot, or none of that id.
* `NotEnoughData`: no item has `RECSYS_MIN_ITEM_EVENTS` events, or no event lies before the validation part: ingest
  more, or lower that setting and build features again.
* `InvariantError: The loss is nan`: the message names the batch; train from the start, or with another `RECSYS_SEED`.
* `OutOfMemory`: the batch follows from the data. Fewer items (a higher `RECSYS_MIN_ITEM_EVENTS`) or a shorter
  `RECSYS_TRAINING_SECONDS`, for which a smaller network is trained from the start, need less.
* `UnavailableError`: MLflow or the warehouse does not answer; the task is tried again.
"""


@loop.recsys_dag(
    DOC,
    schedule=(loop.SNAPSHOT | loop.RETRAINING),
    task_args={"execution_timeout": timedelta(hours=6)},
    params={
        "snapshot_id": Param(None, type=["null", "string"], description="default: what started the run, or the latest"),
        "from_scratch": Param(False, type="boolean", description="leave the champion's weights aside"),
    },
    tags=["model", "tier:2"],
)
def train_model() -> None:
    @task
    @loop.step
    def train(params: Any = None, triggering_asset_events: Any = None) -> str:
        from recsys_tasks.steps import training

        snapshot_id = params["snapshot_id"] or loop.from_event(triggering_asset_events, "snapshot_id")
        asked = loop.from_event(triggering_asset_events, "alarm") is not None
        return training.train_model(snapshot_id, from_scratch=params["from_scratch"] or asked)

    @task
    @loop.step
    def evaluate(training_run: str) -> str:
        from recsys_tasks.steps import training

        table = training.evaluate_run(training_run)
        loop.note(", ".join(f"{name}: MRR@20 {metrics['mrr_20']:.4f}" for name, metrics in table.items()))
        return training_run

    @task(outlets=[loop.CHALLENGER_VERSION])
    @loop.step
    def register(training_run: str, outlet_events: Any = None) -> str:
        from recsys_tasks.steps import training

        number = training.register_run(training_run)
        outlet_events[loop.CHALLENGER_VERSION].extra = {"version": number}
        return number

    register(evaluate(train()))


train_model()
