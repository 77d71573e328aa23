"""Real components for every test: a PostgreSQL server for the session, a fresh warehouse for each test."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy
import torch
from sqlalchemy import Engine, text

from recsys_tasks.warehouse import embedded, migrate

# On two busy cores no example has a time of its own to keep.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="module", autouse=True)
def _environment_as_before() -> Iterator[None]:
    """MLflow keeps where it was pointed in the process's environment, which the next module's processes inherit."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> str:
    """SQLAlchemy URL of the server's database `postgres`."""
    server = embedded.start(tmp_path_factory.mktemp("postgres"))
    return embedded.url(server, "postgres")


@contextmanager
def database(postgres: str, name: str, template: str = "template1") -> Iterator[Engine]:
    """An empty database, or one like another, dropped at the end."""
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


@contextmanager
def fresh_warehouse(postgres: str) -> Iterator[Engine]:
    """An empty warehouse of its own."""
    with database(postgres, f"warehouse_{uuid.uuid4().hex[:12]}") as engine:
        migrate(engine)
        yield engine


@pytest.fixture(scope="session")
def tracking_template(postgres: str) -> Iterator[str]:
    """Name of an empty database of MLflow's, to make others like it: its own migrations take half a minute."""
    program = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments()"
    with database(postgres, "mlflow_template") as empty:
        url = empty.url.render_as_string(hide_password=False)
        # In a process of its own: as long as somebody is connected, a database is no template.
        subprocess.run([sys.executable, "-W", "ignore", "-c", program, url], check=True, capture_output=True)
        yield "mlflow_template"


@pytest.fixture
def warehouse(postgres: str) -> Iterator[Engine]:
    """An empty warehouse for the test."""
    with fresh_warehouse(postgres) as engine:
        yield engine


@pytest.fixture
def shared_events() -> Path:
    """Real log samples, where this machine has them."""
    folder = SHARED / "events"
    if not folder.is_dir():
        pytest.skip("the real log samples are not on this machine")
    return folder
