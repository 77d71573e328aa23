"""Airflow's commands, each in a fork of one process that has imported Airflow.

Alone, `airflow dags test` takes 15 s of two busy cores before its first task: imports, and the routes of the Execution
API, which Airflow generates anew in each process. A fork has both.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

_ROOT = Path(__file__).parents[2]
# Not `recsys_tasks.orchestration`, nor DAG files: they read the settings when they are imported.
_MODULES = (
    "airflow.api_fastapi.execution_api.app",
    "airflow.cli.commands.dag_command",
    "recsys_tasks.steps.features",
    "recsys_tasks.steps.ingestion",
    "recsys_tasks.validation.batch",
)


class AirflowCommands:
    """A process with Airflow imported, and its forks.

    Args:
        environment: of the process: that of the first command.
        output: file of the latest command's output.
    """

    def __init__(self, environment: Mapping[str, str], output: Path) -> None:
        self._output = output
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )

    def run(self, environment: Mapping[str, str], arguments: Sequence[str]) -> tuple[int, str]:
        """Runs `airflow ARGUMENT…`, or a Python program after `-c`; returns its exit status and its output."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        order = [dict(environment), list(arguments), str(self._output)]
        print(json.dumps(order), file=self._server.stdin, flush=True)
        status = self._server.stdout.readline()
        assert status, "the process with Airflow has ended; its output is above"
        return int(status), self._output.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Ends the process."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(20)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever an import prints is no answer
    gc.disable()
    _import_all()
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all of it
    gc.enable()
    forks = multiprocessing.get_context("fork")
    for line in sys.stdin:
        command = forks.Process(target=_run, args=json.loads(line))
        command.start()
        command.join()
        print(command.exitcode, file=answers, flush=True)


def _import_all() -> None:
    for module in _MODULES:
        import_module(module)
    from airflow.sdk.execution_time.supervisor import in_process_api_server

    from recsys_tasks.settings import settings

    in_process_api_server().app._cadwyn_initialize()  # generates the routes: most of the time
    assert settings.cache_info().currsize == 0, "a fork must read the settings of its own environment"


def _run(environment: dict[str, str], arguments: list[str], output: str) -> None:
    from airflow import settings
    from airflow.__main__ import main
    from airflow.listeners.listener import get_listener_manager

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(os.sep)
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    settings.configure_vars()  # the DAGs folder
    try:
        if arguments[0] == "-c":
            exec(arguments[1], {"__name__": "__main__"})  # noqa: S102
        else:
            sys.argv = ["airflow", *arguments]
            main()
    finally:
        get_listener_manager().hook.before_stopping(component=None)  # OpenLineage's processes, else waited for forever


if __name__ == "__main__":
    _serve()
