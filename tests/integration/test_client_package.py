"""The client as a distribution of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _find_python() -> str | None:
    """Returns a Python 3.10 that runs, if there is one."""
    for name in ("python3.10", *map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10"))):
        found = shutil.which(name)
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    return None


def test_the_client_installs_and_imports_on_python_3_10_without_the_rest(tmp_path: Path) -> None:
    python = _find_python()
    if python is None:
        pytest.skip("needs Python 3.10, which the client package supports and this machine does not have")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    environment = tmp_path / "venv" / "bin"
    subprocess.run(
        [environment / "pip", "install", "--quiet", "--disable-pip-version-check", ROOT / "recsys_tasks" / "client"],
        check=True,
    )
    packages = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    own = [folder for folder in packages.iterdir() if not folder.name.startswith(("pip", "setuptools", "_distutils"))]
    files = [file for folder in own for file in (folder.rglob("*") if folder.is_dir() else [folder])]
    assert sum(file.stat().st_size for file in files if file.is_file()) < 10e6

    program = (
        "import sys; from recsys_tasks.client import Event, RecommendationRequest, RecommenderClient, SearchRequest;"
        "RecommenderClient('http://127.0.0.1:1').close(); assert 'numpy' not in sys.modules; print('imported')"
    )
    done = subprocess.run(
        [environment / "python", "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == "imported"
