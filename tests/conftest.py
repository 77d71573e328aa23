"""Shared fixtures: one PostgreSQL server per session, one empty warehouse per test."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy
import torch
from sqlalchemy import Engine, text

from recsys_tasks.promotion import build
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import database_url, embedded, engine, migrate

# Deadlines are unreliable on two busy cores.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # as many workers as cores, and endpoints beside them


@pytest.fixture(scope="session", autouse=True)
def _few_golden_requests() -> Iterator[None]:
    """Bundles have requests of two users instead of six: each endpoint answers all of them six times, with pauses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "GOLDEN_USERS", 2)
        yield


@pytest.fixture(scope="module", autouse=True)
def _restore_environment() -> Iterator[None]:
    """Restores the environment after each module: MLflow stores its URIs there and child processes inherit them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> str:
    """SQLAlchemy URL of the database `postgres` of the session's server."""
    server = embedded.start(tmp_path_factory.mktemp("postgres"))
    return embedded.url(server, "postgres")


@contextmanager
def database(postgres: str, name: str, template: str = "template1") -> Iterator[Engine]:
    """Creates a database from a template and drops it at the end."""
    server = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"create database {name} template {template}"))
    engine = sqlalchemy.create_engine(
        sqlalchemy.make_url(postgres).set(database=name), connect_args={"options": "-c timezone=UTC"}
    )
    try:
        yield engine
    finally:
        engine.dispose()
        with server.connect() as connection:
            connection.execute(text(f"drop database {name} with (force)"))
        server.dispose()


def clear_cached_settings() -> None:
    """Forgets the settings and the connection of the warehouse: the next use reads the environment."""
    for cached in (settings, database_url, engine):
        cached.cache_clear()


@contextmanager
def fresh_warehouse(postgres: str) -> Iterator[Engine]:
    """Creates an empty, migrated warehouse and drops it at the end."""
    with database(postgres, f"warehouse_{uuid.uuid4().hex[:12]}", _warehouse_template(postgres)) as engine:
        yield engine


@cache
def _warehouse_template(postgres: str) -> str:
    """Returns the name of a migrated template database of a server, created by the first call."""
    name = "warehouse_template"
    server = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"create database {name}"))
    server.dispose()
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(postgres).set(database=name))
    migrate(engine)
    engine.dispose()  # a database with open connections cannot be a template
    return name


@contextmanager
def configured_shop(postgres: str, tracking_template: str, home: Path, **settings: object) -> Iterator[Engine]:
    """Sets up a home folder with its own warehouse and MLflow database, and the settings `RECSYS_…` of both.

    Args:
        postgres: the server.
        tracking_template: template of MLflow's database.
        home: the folder, which becomes the working directory.
        settings: further settings, by their names without `RECSYS_`.
    """
    with (
        fresh_warehouse(postgres) as warehouse,
        database(postgres, f"mlflow_{uuid.uuid4().hex[:12]}", tracking_template) as registry,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(home)
        urls = {"WAREHOUSE_URL": warehouse.url, "MLFLOW_TRACKING_URI": registry.url}
        addresses = {name: url.render_as_string(hide_password=False) for name, url in urls.items()}
        for name, value in {"HOME": home, **addresses, **settings}.items():
            patch.setenv(f"RECSYS_{name}", str(value))
        clear_cached_settings()
        yield warehouse
    clear_cached_settings()


@pytest.fixture(scope="session")
def tracking_template(postgres: str) -> Iterator[str]:
    """Name of a migrated MLflow template database; migrating one takes half a minute."""
    program = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments()"
    with database(postgres, "mlflow_template") as empty:
        url = empty.url.render_as_string(hide_password=False)
        # In a separate process: a database with open connections cannot be a template.
        subprocess.run([sys.executable, "-W", "ignore", "-c", program, url], check=True, capture_output=True)
        yield "mlflow_template"


@pytest.fixture
def warehouse(postgres: str) -> Iterator[Engine]:
    """An empty warehouse for one test."""
    with fresh_warehouse(postgres) as engine:
        yield engine


@pytest.fixture
def shared_events() -> Path:
    """Folder of real log samples; skips the test where it is missing."""
    folder = SHARED / "events"
    if not folder.is_dir():
        pytest.skip("shared/data/events is missing on this machine")
    return folder
