"""One typed settings object, read from the environment (prefix `RECSYS_`) or a `.env` file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from recsys_tasks.errors import ConfigurationError

_NO_EVENT_BEFORE = datetime(1990, 1, 1, tzinfo=UTC)  # no shop has older ones; a clock that was reset has


class Settings(BaseSettings):
    """Everything a deployment can set; every field has a default that works on one machine."""

    model_config = SettingsConfigDict(env_prefix="RECSYS_", env_file=".env", extra="ignore")

    home: Path = Field(Path(".recsys"), description="Folder of everything this project writes")
    warehouse_url: SecretStr | None = Field(None, description="SQLAlchemy URL; default: embedded PostgreSQL")
    mlflow_tracking_uri: str | None = Field(None, description="default: the embedded database `mlflow`")
    mlflow_experiment: str = Field("session-recommender", description="MLflow experiment that training runs go to")

    endpoint_urls: tuple[str, ...] = Field(
        ("http://127.0.0.1:8080",), description="endpoints to promote to and collect feedback from (JSON list)"
    )
    admin_token: SecretStr | None = Field(None, description="bearer token of the endpoints' admin routes")
    read_keys: tuple[SecretStr, ...] = Field((), description="keys for lists and searches; none: open (JSON list)")
    write_keys: tuple[SecretStr, ...] = Field((), description="keys for posting events; none: open (JSON list)")
    endpoint_memory_mb: int | None = Field(
        None, ge=1, description="most memory of an endpoint; a bundle that needs more is refused; default: all there is"
    )
    cache_mb: int = Field(
        64, ge=1, description="what each model of an endpoint keeps of users and sessions has no more than this"
    )
    log_format: Literal["text", "json"] = Field("text", description="of the endpoint's log")
    access_log: bool = Field(False, description="whether the endpoint logs every request, without who asked what")
    max_queue_wait_ms: float = Field(
        500, gt=0, description="requests for lists are refused while they wait longer than this for their turn"
    )
    rate_limit: float | None = Field(None, gt=0, description="requests a second of one key or address; none: any")
    drain_seconds: float = Field(
        0, ge=0, description="how long an endpoint that is told to stop goes on, not ready any more"
    )
    exploration_share: float = Field(
        0, ge=0, le=0.5, description="share of places in recorded lists filled by chance, with the chance noted"
    )
    trending_half_life_hours: float = Field(
        6,
        ge=0,
        description="after which what people took without a list counts half for what rises; 0: not at all",
    )
    experiment_file: Path | None = Field(None, description="TOML file of arms: which visitors get whose lists")
    impression_sample_share: float = Field(
        1, gt=0, le=1, description="share of the requests whose impressions are noted, drawn; noted with each"
    )
    shared_state_url: SecretStr | None = Field(
        None, description="PostgreSQL URL of the warehouse, for endpoints that share what users just did"
    )
    shared_state_retention_hours: float = Field(48, gt=0, description="what endpoints share is dropped after this long")
    tracing: bool = Field(False, description="whether the endpoint tells OpenTelemetry of requests (OTEL_… says where)")
    merchandising_rules: Path | None = Field(
        None, description="TOML file of the shop's rules for lists: boosts, pins, limits"
    )
    landing_path: Path | None = Field(
        None, description="landing folder, a folder per source in it; default: home/landing"
    )
    expectation_suites: Path | None = Field(None, description="folder of expectation suites of your own")
    attribution_hours: int = Field(
        24, ge=1, le=720, description="an action belongs to what was shown in so many hours before it"
    )
    max_human_requests_per_minute: int = Field(
        60, ge=1, description="a visitor who asks for more lists in a minute is a machine, on that day"
    )
    event_retention_days: int | None = Field(None, ge=1, description="older events are dropped by maintain_warehouse")
    quarantine_retention_days: int = Field(90, ge=1, description="resolved or older rows of quarantine are dropped")
    snapshot_retention_days: int = Field(
        30, ge=1, description="older snapshots that no alias and no latest one uses go"
    )
    data_docs_url: str | None = Field(None, description="where the data docs are served, for messages")

    max_bad_share: float = Field(0.2, ge=0, le=1, description="a batch with more bad rows is rejected whole")
    simulation_start: str | None = Field(
        None, description="ISO time from which Complete Journey is not ingested: from then on simulated people shop"
    )

    min_item_events: int = Field(10, ge=1, description="items with fewer training events are unknown")
    validation_share: float = Field(0.04, gt=0, lt=0.5, description="share of latest sessions before the test")
    test_share: float = Field(0.04, gt=0, lt=0.5, description="share of latest sessions for the test")
    max_held_out_sessions: int = Field(
        20_000, ge=50, description="sessions in the validation part and in the test part, at most: the rest teaches"
    )
    max_training_epochs: int = Field(100, ge=1, description="epochs of a training, at most")
    training_seconds: float = Field(150, gt=0, description="time budget of a training from scratch")
    warm_start_seconds: float = Field(45, gt=0, description="time budget when starting from the champion")
    training_threads: int = Field(0, ge=0, description="CPU threads of a training; 0 leaves the choice to torch")
    seed: int = Field(0, description="seed of every random number")
    approval: Literal["automatic", "person"] = Field(
        "automatic", description="who lets a challenger serve that passed the gate: nobody, or a person in Airflow"
    )
    approval_hours: float = Field(24, gt=0, description="how long a person has to answer")
    approval_default: Literal["Approve", "Reject"] = Field("Reject", description="what silence means")
    shadow_share: float = Field(0, ge=0, le=1, description="share of requests a challenger answers unseen, before all")
    shadow_minutes: float = Field(30, gt=0, description="for how long")
    canary_share: float = Field(0, ge=0, lt=1, description="share of users a challenger answers, before all of them")
    canary_hours: float = Field(24, gt=0, description="for how long, at most")
    monitor_rules: Path | None = Field(None, description="what is watched online; default: monitoring/monitors.toml")
    gate_rules: Path | None = Field(None, description="rules of the gate; default: evaluation/gate.toml")

    sample_users: int | None = Field(
        None, ge=1, description="take only this many households of Complete Journey, for a quick look"
    )
    airflow_pool: str = Field("default_pool", description="Airflow pool of the tasks that work in the warehouse")
    alert_url: SecretStr | None = Field(None, description="webhook for failures and missed deadlines")
    airflow_url: str | None = Field(None, description="Airflow's REST API, for notes; or connection recsys_airflow")
    landing_schedule: str = Field("*/10 * * * *", description="when the landing folder is looked into")
    reconcile_schedule: str = Field("*/10 * * * *", description="when alias, endpoints and record are compared")
    feedback_schedule: str = Field("*/10 * * * *", description="when the endpoints' journals are collected")

    def require_admin_token(self) -> str:
        """The token of the endpoints' admin routes.

        Raises:
            ConfigurationError: there is none.
        """
        if self.admin_token is None:
            raise ConfigurationError("RECSYS_ADMIN_TOKEN is not set; it must be the same as the endpoint's")
        return self.admin_token.get_secret_value()

    @property
    def has_rollout(self) -> bool:
        """Whether a challenger is tried before it serves everybody."""
        return bool(self.shadow_share or self.canary_share)

    @property
    def promotion_waits(self) -> timedelta:
        """How long a promotion may wait for a person and for a trial."""
        person = timedelta(hours=self.approval_hours if self.approval == "person" else 0)
        shadow = timedelta(minutes=self.shadow_minutes if self.shadow_share else 0)
        return person + shadow + timedelta(hours=self.canary_hours if self.canary_share else 0)

    @property
    def landing_folder(self) -> Path:
        """Where files are dropped, in a folder per source."""
        return self.landing_path or self.home / "landing"

    @property
    def kept_from(self) -> datetime:
        """The earliest time of events that are taken in."""
        if self.event_retention_days is None:
            return _NO_EVENT_BEFORE
        return datetime.now(UTC) - timedelta(days=self.event_retention_days)

    @property
    def snapshots(self) -> Path:
        """Folder of immutable feature snapshots."""
        return self.home / "snapshots"

    @property
    def validation_home(self) -> Path:
        """Folder of the Great Expectations project and its data docs."""
        return self.home / "great_expectations"


@lru_cache
def settings() -> Settings:
    """The settings of this process.

    Raises:
        ConfigurationError: a variable has a value of the wrong type or range.
    """
    try:
        found = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "RECSYS_" + str(first["loc"][0]).upper()
        raise ConfigurationError(f"{name}={first['input']!r}: {first['msg']}") from error
    return found.model_copy(update={"home": found.home.absolute()})
