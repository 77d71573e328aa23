"""Searches for better hyperparameters, and registers a model trained with the best as the challenger."""

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

POSITIVE: dict[str, Any] = {"type": ["null", "number"], "exclusiveMinimum": 0}
DOC = """
### What it does
Runs an Optuna hyperparameter study on a snapshot. All trials have the same time budget; the first has the recipe's
hyperparameters. Then trains the best ones from scratch, evaluates the model, and registers it with the alias
`challenger`. If none is better than the recipe, the later tasks are skipped.

**Reads** a snapshot. **Writes** a study in the warehouse's schema `tuning`, MLflow runs, and the asset `challenger`.

### Run it again
Safe: a retry resumes the study. Trigger it with
`{"minutes": 240, "trial_minutes": 15, "processes": 2}`, for another snapshot with `{"snapshot_id": "…"}`. Each process
uses `RECSYS_TRAINING_THREADS` threads: set it, so that all processes together have no more than the machine's cores.

### When it fails
* `InputError`: there is no such snapshot, or the study is too short for two trials; the message says what it needs.
* `NotEnoughData`: the snapshot has too few sessions to train on, or no trial was complete. Give it more time.
* `ConfigurationError`: `RECSYS_MODEL` is a plugin model, which cannot be tuned, or the recipe file is invalid.
* `InvariantError`, `OutOfMemory`: the training of the best hyperparameters failed, see `train_model`.
* `UnavailableError`: MLflow or the warehouse does not answer. Airflow retries the task.
"""


@loop.recsys_dag(
    DOC,
    schedule=settings().tuning_schedule,
    max_extra_time=timedelta(hours=12),
    task_args={"execution_timeout": timedelta(hours=24), **loop.TRAINING_TASK},
    params={
        "snapshot_id": Param(None, type=["null", "string"], description="default: the latest"),
        "minutes": Param(None, description="of the study; default: RECSYS_TUNING_MINUTES", **POSITIVE),
        "trial_minutes": Param(None, description="of each trial; default: RECSYS_TRAINING_SECONDS / 60", **POSITIVE),
        "processes": Param(1, type="integer", minimum=1, description="tasks that run trials in parallel"),
    },
    tags=["model", "tier:3"],
)
def tune_model() -> None:
    @task(inlets=[loop.SNAPSHOT])
    @loop.step
    def start(params: Any = None, run_id: Any = None) -> list[str]:
        from recsys_tasks.steps import training

        study = training.start_study(run_id, params["snapshot_id"], params["minutes"], params["trial_minutes"])
        return [study] * params["processes"]

    @task
    @loop.step
    def run_trials(study: str) -> None:
        from recsys_tasks.steps import training

        training.run_trials(study)

    @task(inlets=[loop.SNAPSHOT], trigger_rule="all_done_min_one_success")  # a failed process loses only its trial
    @loop.step
    def train_best(studies: list[str]) -> str:
        from recsys_tasks.steps import training

        run_id = training.train_best(studies[0])
        if run_id is None:
            raise AirflowSkipException("No trial was better than the recipe")
        return run_id

    @task
    @loop.step
    def evaluate(training_run: str) -> str:
        from recsys_tasks.steps import training

        metrics = training.evaluate_run(training_run)["model"]
        loop.add_note(f"MRR@20 {metrics['mrr_20']:.4f}")
        return training_run

    @task(outlets=[loop.CHALLENGER_VERSION])
    @loop.step
    def register(training_run: str, outlet_events: Any = None) -> str:
        return loop.register_challenger(training_run, outlet_events)

    studies = start()
    best = train_best(studies)
    run_trials.expand(study=studies) >> best
    register(evaluate(best))


tune_model()
