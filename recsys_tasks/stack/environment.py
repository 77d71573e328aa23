"""Environment of the stack processes: ports, databases and secrets."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from base64 import urlsafe_b64encode
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.names import LINEAGE_NAMESPACE
from recsys_tasks.settings import settings

REPLAY_FROM = "2017-12-25T00:00:00+00:00"
POOL = "warehouse"
_EXPLORATION_SHARE = "0.05"
EXPERIMENT = Path(__file__).with_name("experiment.toml")
MARKER = "RECSYS_STACK_HOME"  # set in every process of the stack, so that all of them are found at shutdown
_HOST = "127.0.0.1"
_PORTS_FILE = "ports.json"
_LINEAGE_PREFIX = "AIRFLOW__OPENLINEAGE__"


@dataclass(frozen=True)
class Ports:
    """Ports of the services on 127.0.0.1."""

    airflow: int
    mlflow: int
    endpoint: int
    data_docs: int
    console: int = 8083
    redis: int = 6379

    def url(self, service: str) -> str:
        """Returns the URL of a service."""
        return f"http://{_HOST}:{getattr(self, service)}"


_DEFAULT_PORTS = Ports(airflow=8081, mlflow=5001, endpoint=8080, data_docs=8082)


def data_docs_url(ports: Ports) -> str:
    """Returns the address of the data docs: a server of their folder, or the console, if they are in a remote store."""
    has_folder = settings().validation_home.local_path is not None
    return ports.url("data_docs") if has_folder else f"{ports.url('console')}/console/data-docs/index.html"


def choose_ports() -> Ports:
    """Returns the configured ports (`RECSYS_PORT_AIRFLOW` etc.), else the default ports, else free ports.

    Raises:
        ConfigurationError: a configured port is in use or invalid.
    """
    chosen: dict[str, int] = {}
    names = sorted(asdict(_DEFAULT_PORTS), key=lambda name: _variable(name) not in os.environ)  # configured ports first
    for name in names:
        port = _choose_port(name, getattr(_DEFAULT_PORTS, name), set(chosen.values()))
        if port in chosen.values():
            raise ConfigurationError(f"{_variable(name)}={port}: another service has that port. Choose another")
        chosen[name] = port
    return Ports(**chosen)


def find_dags_folder() -> Path:
    """Returns the folder of the DAG files, in a clone or in an installed package."""
    package = Path(__file__).parent.parent
    return next(folder for folder in (package.parent / "dags", package / "dags") if folder.is_dir())


def save_ports(home: Path, ports: Ports) -> None:
    """Stores the ports of a stack in its home folder, for `load_ports`."""
    (home / _PORTS_FILE).write_text(json.dumps(asdict(ports)), encoding="utf-8")


def load_ports(home: Path) -> Ports:
    """Returns the ports of the stack that ran last in a home folder.

    Raises:
        ConfigurationError: none ran there.
    """
    try:
        return Ports(**json.loads((home / _PORTS_FILE).read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(
            f"No stack has run in {home}. Start one with `make run`, or set RECSYS_HOME"
        ) from error


def _variable(name: str) -> str:
    return f"RECSYS_PORT_{name.upper()}"


def _choose_port(name: str, usual: int, taken: set[int]) -> int:
    variable = _variable(name)
    configured = os.environ.get(variable)
    if configured is None:
        return usual if usual not in taken and is_free(usual) else find_free_port()
    if not configured.isdecimal() or not 0 < int(configured) < 65_536:
        raise ConfigurationError(f"{variable}={configured!r}: not a port. Use a number from 1 to 65535")
    if not is_free(int(configured)):
        raise ConfigurationError(f"{variable}={configured}: the port is in use. Choose another or unset {variable}")
    return int(configured)


def is_free(port: int) -> bool:
    """Whether a port of 127.0.0.1 is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def find_free_port() -> int:
    """Returns a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def load_secrets(home: Path) -> dict[str, str]:
    """Loads the installation's secrets; creates them, readable by the owner only, at the first start."""
    path = home / "secrets.json"
    if not path.exists():
        created = {
            "admin_token": secrets.token_urlsafe(32),
            "fernet_key": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "api_secret": secrets.token_urlsafe(32),
            "jwt_secret": secrets.token_urlsafe(64),
        }
        # Atomic: a power loss leaves the whole file or none.
        new = path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(created, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


def stack_environment(home: Path, dags: Path, socket_folder: Path, ports: Ports, workers: int = 0) -> dict[str, str]:
    """Returns the environment variables of every process of the stack.

    Args:
        home: home folder of the stack.
        dags: folder of the DAG files.
        socket_folder: folder of the PostgreSQL socket.
        ports: of the services.
        workers: number of Celery workers that run the tasks; 0: the scheduler runs them.
    """
    secret = load_secrets(home)
    airflow = home / "airflow"
    own = {
        MARKER: str(home),
        "SPT_NOENV": "1",  # else titles of processes overwrite the marker
        "RECSYS_HOME": str(home),
        "RECSYS_WAREHOUSE_URL": _database(socket_folder, "warehouse"),
        "RECSYS_MLFLOW_TRACKING_URI": ports.url("mlflow"),
        "RECSYS_ENDPOINT_URLS": json.dumps([ports.url("endpoint")]),
        "RECSYS_ADMIN_TOKEN": secret["admin_token"],
        "RECSYS_SHOP": "true",
        "RECSYS_DATA_DOCS_URL": data_docs_url(ports),
        "RECSYS_AIRFLOW_URL": ports.url("airflow"),
        "RECSYS_AIRFLOW_POOL": POOL,
        "RECSYS_SIMULATION_START": os.environ.get("RECSYS_SIMULATION_START", REPLAY_FROM),
        "RECSYS_EXPERIMENT_FILE": os.environ.get("RECSYS_EXPERIMENT_FILE", str(EXPERIMENT)),
        "RECSYS_EXPLORATION_SHARE": os.environ.get("RECSYS_EXPLORATION_SHARE", _EXPLORATION_SHARE),
        "RECSYS_MLFLOW_BACKEND": _database(socket_folder, "mlflow"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        # Some libraries fail without a runtime folder.
        "XDG_RUNTIME_DIR": str(home),
    }
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AIRFLOW") or name.startswith(_LINEAGE_PREFIX)
    }
    executor = _celery(socket_folder, ports, workers) if workers else {}
    return {**inherited, **own, **_airflow(airflow, dags, socket_folder, ports, secret), **executor}


def worker_environment(home: Path, number: int) -> dict[str, str]:
    """Returns the environment variables in which a worker differs from the stack: its home is its own, as on another
    host."""
    own = home / f"worker-{number}"
    logs = own / "airflow" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    return {
        "RECSYS_HOME": str(own),
        "XDG_RUNTIME_DIR": str(own),
        "AIRFLOW_HOME": str(own / "airflow"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(logs),
    }


def _celery(socket_folder: Path, ports: Ports, workers: int) -> dict[str, str]:
    return {
        "AIRFLOW__CORE__PARALLELISM": str(max(2, workers)),
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://{_HOST}:{ports.redis}/0",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{_database(socket_folder, 'airflow', 'psycopg2')}",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": "1",
        # Tasks of a killed worker, begun or not, are repeated soon; those that wait for a worker may wait.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "120",
        "AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "100",
    }


def _airflow(folder: Path, dags: Path, socket_folder: Path, ports: Ports, secret: dict[str, str]) -> dict[str, str]:
    url = ports.url("airflow")
    sections = {
        "CORE": {
            "DAGS_FOLDER": str(dags),
            "EXECUTOR": "LocalExecutor",
            "PARALLELISM": "2",
            "LOAD_EXAMPLES": "False",
            "AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "FERNET_KEY": secret["fernet_key"],
            "EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "HOSTNAME_CALLABLE": "socket.gethostname",
        },
        # With psycopg 3, the asset graph of Airflow 3.3.2 fails: its query compares jsonb with varchar.
        "DATABASE": {
            "SQL_ALCHEMY_CONN": _database(socket_folder, "airflow", "psycopg2"),
            "SQL_ALCHEMY_CONN_ASYNC": _database(socket_folder, "airflow"),
        },
        # Emits events only with a transport, for example AIRFLOW__OPENLINEAGE__TRANSPORT='{"type": "console"}'.
        "OPENLINEAGE": {
            "NAMESPACE": LINEAGE_NAMESPACE,
            "EXTRACTORS": "recsys_tasks.orchestration.lineage.TaskExtractor",
        },
        "LOGGING": {
            "BASE_LOG_FOLDER": str(folder / "logs"),
            "DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(folder / "logs" / "dag_processor"),
            "COLORED_CONSOLE_LOG": "False",
        },
        "API": {
            "HOST": _HOST,
            "PORT": str(ports.airflow),
            "BASE_URL": url,
            "WORKERS": "1",
            "SECRET_KEY": secret["api_secret"],
        },
        "API_AUTH": {"JWT_SECRET": secret["jwt_secret"], "JWT_ISSUER": "session-recommender"},
        "SCHEDULER": {
            "SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            "ENABLE_HEALTH_CHECK": "False",
            # On Linux, so that tasks have what the scheduler imported; from Python 3.14 on, it is not the default.
            **({"MP_START_METHOD": "fork"} if sys.platform == "linux" else {}),
            # Adopts a killed scheduler's tasks soon after the next start; the default is five minutes.
            "ORPHANED_TASKS_CHECK_INTERVAL": "20",
        },
        "DAG_PROCESSOR": {
            "REFRESH_INTERVAL": "300",
            "MIN_FILE_PROCESS_INTERVAL": "300",
            "PARSING_PROCESSES": "1",
            "PRINT_STATS_INTERVAL": "0",
        },
    }
    flat = {
        f"AIRFLOW__{section}__{name}": value for section, values in sections.items() for name, value in values.items()
    }
    return {"AIRFLOW_HOME": str(folder), **flat}


def _database(socket_folder: Path, name: str, driver: str = "psycopg") -> str:
    return f"postgresql+{driver}://postgres@localhost/{name}?host={quote(str(socket_folder), safe='')}"
