"""The processes of the stack, run by honcho; none outlives the stack."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

from recsys_tasks.errors import UnavailableError
from recsys_tasks.stack.environment import MARKER, POOL, Ports

_GRACE_SECONDS = 15.0


class Processes:
    """Starts honcho with one process per service; as a context, stops everything at its end."""

    def __init__(self, home: Path, environment: dict[str, str], ports: Ports) -> None:
        self._home, self._environment = home, environment
        self._procfile = home / "Procfile"
        self.log = home / "stack.log"
        self._procfile.write_text(_procfile(home, ports), encoding="utf-8")

    def __enter__(self) -> Processes:
        sweep(self._home)  # what an earlier stack left that was killed
        for command in (["db", "migrate"], ["pools", "set", POOL, "1", "Work in the warehouse, one task at a time"]):
            prepared = subprocess.run(
                [_tool("airflow"), *command],
                env=self._environment,
                check=False,
                stdout=self.log.open("ab"),
                stderr=subprocess.STDOUT,
            )
            if prepared.returncode != 0:
                raise UnavailableError(f"Airflow could not be set up; see the end of {self.log}")
        self._honcho = subprocess.Popen(
            [_tool("honcho"), "start", "--no-colour", "-f", str(self._procfile)],
            env=self._environment,
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave services behind
        if self._honcho.poll() is None:
            self._honcho.send_signal(signal.SIGTERM)
        try:
            self._honcho.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._honcho.kill()
        sweep(self._home)

    def check(self) -> None:
        """Raises `UnavailableError` when a service has ended, which ends all of them."""
        if self._honcho.poll() is not None:
            raise UnavailableError(f"A service of the stack ended; the end of {self.log} says why")


def sweep(home: Path) -> None:
    """Ends every process that carries this stack's mark, and what such a one has started, but not this one.

    Airflow's workers write their titles over the mark, and keep the transactions of a scheduler that was killed open.
    """
    marked = [process for process in psutil.process_iter() if process.pid != os.getpid() and _marked(process, home)]
    left = list({*marked, *(child for process in marked for child in _children(process))})
    for process in left:
        _signal(process, signal.SIGTERM)
    _, stubborn = psutil.wait_procs(left, timeout=5)
    for process in stubborn:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=5)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found


def _marked(process: psutil.Process, home: Path) -> bool:
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


def _procfile(home: Path, ports: Ports) -> str:
    python = sys.executable
    docs = home / "great_expectations" / "data_docs"
    docs.mkdir(parents=True, exist_ok=True)
    (home / "mlartifacts").mkdir(exist_ok=True)
    backend = "$RECSYS_MLFLOW_BACKEND"
    commands = {
        "mlflow": f"{_tool('mlflow')} server --backend-store-uri {backend} --artifacts-destination"
        f" {home / 'mlartifacts'} --host 127.0.0.1 --port {ports.mlflow} --workers 1",
        "api": f"{_tool('airflow')} api-server --host 127.0.0.1 --port {ports.airflow} --workers 1",
        "scheduler": f"{_tool('airflow')} scheduler --skip-serve-logs",
        "processor": f"{_tool('airflow')} dag-processor",
        "endpoint": f"{python} -m recsys_tasks serve --port {ports.endpoint}",
        "docs": f"{python} -m http.server --bind 127.0.0.1 --directory {docs} {ports.data_docs}",
    }
    return "".join(f"{name}: exec {command}\n" for name, command in commands.items())


def wait_until(ready: Callable[[], bool], seconds: float, processes: Processes, what: str) -> None:
    """Waits until `ready()` is true.

    Raises:
        UnavailableError: it was not in time, or a service ended.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        processes.check()
        if time.monotonic() > deadline:
            raise UnavailableError(f"{what} did not come up within {seconds:.0f} s; see {processes.log}")
        time.sleep(0.3)
