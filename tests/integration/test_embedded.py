"""Embedded server: stops with its last client, restarts after a crash, serializes concurrent starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from recsys_tasks.stack.environment import choose_ports, save_ports

_PROGRAM = (
    "import sys, signal, os, pathlib\n"
    "from recsys_tasks.warehouse import embedded\n"
    "server = embedded.start(pathlib.Path(sys.argv[1]))\n"
    "print(server.get_postmaster_info().pid, flush=True)\n"
    "os.kill(os.getpid(), int(sys.argv[2])) if sys.argv[2] != '0' else None\n"
)


def _start_and_exit(home: Path, signal: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(home), str(signal)], capture_output=True, text=True, check=False
    )
    return int(done.stdout.split()[-1])


def _is_running(pid: int) -> bool:
    try:
        status: str = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return False
    return bool(status != psutil.STATUS_ZOMBIE)


def test_a_killed_client_process_does_not_keep_the_server_running(tmp_path: Path) -> None:
    survivor = _start_and_exit(tmp_path, 9)
    assert _is_running(survivor)
    assert _start_and_exit(tmp_path, 0) == survivor
    assert not _is_running(survivor)


_KILLED = (
    "import sys, psutil, pathlib\n"
    "from recsys_tasks.warehouse import embedded\n"
    "home = pathlib.Path(sys.argv[1])\n"
    "first = psutil.Process(embedded.start(home).get_postmaster_info().pid)\n"
    "first.kill()\n"
    "second = embedded.start(home)\n"
    "print(second.get_postmaster_info().pid != first.pid, second.psql('select 41 + 1;').split()[2])\n"
)


def test_a_killed_server_is_restarted(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _KILLED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "42"]


# Prints `waits` when it waits for the lock, then the process id of its server.
_SECOND = (
    "import sys, fcntl, pathlib\n"
    "from recsys_tasks.warehouse import embedded\n"
    "flock = fcntl.flock\n"
    "fcntl.flock = lambda *given: (print('waits', flush=True), flock(*given))\n"
    "print(embedded.start(pathlib.Path(sys.argv[1])).get_postmaster_info().pid, flush=True)\n"
)
_FIRST = (
    "import sys, subprocess, pathlib\n"
    "from recsys_tasks.warehouse import embedded\n"
    "tune, command = embedded._tune, [sys.executable, '-W', 'ignore', '-c', sys.argv[2], sys.argv[1]]\n"
    "def meanwhile(server):\n"
    "    global second\n"
    "    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)\n"
    "    print(second.stdout.readline().strip())\n"
    "    return tune(server)\n"
    "embedded._tune = meanwhile\n"
    "server = embedded.start(pathlib.Path(sys.argv[1]))\n"
    "print(server.get_postmaster_info().pid, second.communicate()[0])\n"
)


def test_a_concurrent_start_waits_and_joins_the_same_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FIRST, str(tmp_path), _SECOND],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, first, second = done.stdout.split()
    assert said == "waits"
    assert first == second


def test_psql_opens_the_warehouse_of_the_stack(tmp_path: Path) -> None:
    save_ports(tmp_path, choose_ports())
    command = [sys.executable, "-W", "ignore", "-m", "recsys_tasks.stack.tools", "psql", "-Atc", "select 6 * 7"]
    environment = {**os.environ, "RECSYS_HOME": str(tmp_path)}
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "42\n"
