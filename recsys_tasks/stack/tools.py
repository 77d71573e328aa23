"""`python -m recsys_tasks.stack.tools airflow|psql [ARGUMENT…]`: Airflow's command and psql for the stack of
`make run`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from recsys_tasks.errors import ConfigurationError, RecsysError
from recsys_tasks.settings import settings
from recsys_tasks.stack.environment import find_dags_folder, load_ports, stack_environment
from recsys_tasks.warehouse import embedded

_WAREHOUSE = "warehouse"


def main() -> int:
    """Runs the tool with the environment of the stack; returns its exit status, or 2 without a stack."""
    parser = argparse.ArgumentParser(prog="python -m recsys_tasks.stack.tools", description=__doc__)
    parser.add_argument("tool", choices=("airflow", "psql"))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    options = parser.parse_args()
    try:
        return _run(options.tool, options.arguments)
    except RecsysError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigurationError) else 1


def _run(tool: str, arguments: list[str]) -> int:
    home = settings().home
    ports = load_ports(home)
    server = embedded.start(home)  # joins the running one; without it, the databases are there nevertheless
    socket_folder = embedded.socket_folder(server)
    environment = stack_environment(home, find_dags_folder(), socket_folder, ports)
    if tool == "psql":
        command = [str(embedded.program("psql")), "--host", str(socket_folder), "--username", "postgres"]
        command += ["--dbname", _WAREHOUSE, *arguments]
    else:
        command = [str(Path(sys.executable).with_name("airflow")), *arguments]
    # Not replaced by the command: the server stops with the last process that uses it.
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
