"""Processes of the stack, run by honcho; none outlives the stack."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import httpx
import psutil

from recsys_tasks.errors import UnavailableError
from recsys_tasks.settings import settings
from recsys_tasks.stack.environment import MARKER, POOL, Ports, worker_environment

_SHUTDOWN_SECONDS = 15.0
_UNCHANGED: Mapping[str, str] = {}
# Both commands in one process: importing Airflow takes seconds.
_SET_UP_AIRFLOW = f"""
import sys
from airflow.__main__ import main
for command in (["db", "migrate"], ["pools", "set", "{POOL}", "1", "Tasks that use the warehouse, one at a time"]):
    sys.argv = ["airflow", *command]
    main()
"""


class StackProcesses:
    """Processes of a stack: services, run by honcho, and programs beside them; the exit of the context stops all."""

    def __init__(self, home: Path, environment: dict[str, str], ports: Ports, workers: int = 0) -> None:
        self._home, self._environment, self._workers = home, environment, workers
        self._procfile = home / "Procfile"
        self._honcho: subprocess.Popen[bytes] | None = None
        self.log = home / "stack.log"
        self._procfile.write_text(_procfile(home, ports, workers > 0), encoding="utf-8")

    def __enter__(self) -> StackProcesses:
        stop_stack_processes(self._home)  # processes of a killed stack
        return self

    def start_services(self) -> None:
        """Sets up Airflow and starts the services.

        Raises:
            UnavailableError: Airflow cannot be set up.
        """
        if self._start([sys.executable, "-W", "ignore", "-c", _SET_UP_AIRFLOW]).wait() != 0:
            raise UnavailableError(f"Airflow could not be set up. See the end of {self.log}")
        self._honcho = self._start([_tool("honcho"), "start", "--no-colour", "-f", str(self._procfile)])
        for number in range(1, self._workers + 1):
            self._start(_worker(number), worker_environment(self._home, number))  # the others go on if one ends

    def start_program(self, module: str, **changed: str) -> subprocess.Popen[bytes]:
        """Starts a Python module beside the services, with changed environment variables."""
        return self._start([sys.executable, "-W", "ignore", "-m", module], changed)

    def _start(self, command: list[str], changed: Mapping[str, str] = _UNCHANGED) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                env={**self._environment, **changed},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave services behind
        if self._honcho is not None:
            self._honcho.send_signal(signal.SIGTERM)  # does nothing if it has ended
            try:
                self._honcho.wait(_SHUTDOWN_SECONDS)
            except subprocess.TimeoutExpired:
                self._honcho.kill()
        stop_stack_processes(self._home)

    def check(self) -> None:
        """Raises `UnavailableError` if a service has ended, which ends all of them."""
        if self._honcho is not None and self._honcho.poll() is not None:
            raise UnavailableError(f"A service of the stack ended. See the end of {self.log}")


def stop_stack_processes(home: Path) -> None:
    """Stops every process with this stack's marker and its children, except this process.

    Workers of a killed stack would go on otherwise: keep transactions open, and take tasks of the next stack.
    """
    marked = [process for process in psutil.process_iter() if process.pid != os.getpid() and _has_marker(process, home)]
    remaining = list({*marked, *(child for process in marked for child in _children(process))})
    for process in remaining:
        _signal(process, signal.SIGTERM)
    _, stubborn = psutil.wait_procs(remaining, timeout=5)
    for process in stubborn:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=5)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found


def _has_marker(process: psutil.Process, home: Path) -> bool:
    try:
        environment: dict[str, str] = process.environ()
    except (psutil.Error, OSError):
        return False
    return environment.get(MARKER) == str(home)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _procfile(home: Path, ports: Ports, has_workers: bool) -> str:
    python = sys.executable
    docs = (settings().validation_home / "data_docs").local_path
    (home / "mlartifacts").mkdir(exist_ok=True)
    backend = "$RECSYS_MLFLOW_BACKEND"
    commands = {
        "mlflow": f"{_tool('mlflow')} server --backend-store-uri {backend} --artifacts-destination"
        f" {home / 'mlartifacts'} --host 127.0.0.1 --port {ports.mlflow} --workers 1",
        "api": f"{_tool('airflow')} api-server --host 127.0.0.1 --port {ports.airflow} --workers 1",
        "scheduler": f"{python} -m recsys_tasks.stack.preloaded_airflow scheduler --skip-serve-logs",
        "processor": f"{_tool('airflow')} dag-processor",
        "endpoint": f"{python} -m recsys_tasks serve --port {ports.endpoint}",
        "console": f"{python} -W ignore -m recsys_tasks console --port {ports.console}",
    }
    if docs is not None:
        docs.mkdir(parents=True, exist_ok=True)
        commands["docs"] = f"{python} -m http.server --bind 127.0.0.1 --directory {docs} {ports.data_docs}"
    if has_workers:
        commands["redis"] = f"redis-server --bind 127.0.0.1 --port {ports.redis} --dir {home} --save ''"
    return "".join(f"{name}: exec {command}\n" for name, command in commands.items())


def _worker(number: int) -> list[str]:
    command = [sys.executable, "-W", "ignore", "-m", "recsys_tasks.stack.preloaded_airflow", "celery", "worker"]
    return [*command, "--celery-hostname", f"worker-{number}@%h", "--skip-serve-logs", "--without-gossip"]


def wait_until(ready: Callable[[], bool], seconds: float, processes: StackProcesses, service: str) -> None:
    """Waits until `ready()` is true.

    Raises:
        UnavailableError: the timeout passed, or a service ended.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        processes.check()
        if time.monotonic() > deadline:
            raise UnavailableError(f"{service} did not start within {seconds:.0f} s. See {processes.log}")
        time.sleep(0.3)


def responds(url: str) -> bool:
    """Whether a GET request of a URL is answered with status 200."""
    try:
        return httpx.get(url, timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
