"""Paths that texts name exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from recsys_tasks.features.event_weights import load_event_weights
from recsys_tasks.ingestion.contract import Contract
from recsys_tasks.ingestion.delivery import Delivery
from recsys_tasks.ingestion.mapping import SourceMapping, load_mapping
from recsys_tasks.training.hyperparameters import Hyperparameters

ROOT = Path(__file__).parents[2]
TEXTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "recsys_tasks/**/*.py", "sql/**/*.sql", "dags/*.py", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
    if path.name not in ("changelog.md", "schema.md") and "sql/schema/" not in path.as_posix()
)
PATH = re.compile(r"`((?:[a-z_]+/)+[\w.]+\.(?:py|sql|toml|html|md))`")
MODULE = re.compile(
    r"`((?:engine|serving|client|wire|experiments|monitoring|model|training|promotion|features)\.(?!py\b|toml\b|sql\b)[a-z_]+)"
)
ROOTS = (ROOT, ROOT / "recsys_tasks", ROOT / "sql", ROOT / "docs")


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_path_that_a_text_names_exists(text: Path) -> None:
    content = text.read_text(encoding="utf-8")
    folders = (*ROOTS, text.parent)
    assert [name for name in PATH.findall(content) if not any((folder / name).exists() for folder in folders)] == []
    modules = {name: ROOT / "recsys_tasks" / name.replace(".", "/") for name in MODULE.findall(content)}
    assert [name for name, path in modules.items() if not (path.with_suffix(".py").exists() or path.is_dir())] == []


LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


@pytest.mark.parametrize("page", [path for path in TEXTS if path.suffix == ".md"], ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    generated = {"reference/settings.md", "reference/cli.md", "reference/http.md"}  # by docs/site_hooks.py
    links = set(LINK.findall(page.read_text(encoding="utf-8"))) - generated
    assert sorted(link for link in links if not (page.parent / link).exists()) == []


def test_the_examples_of_mappings_are_valid() -> None:
    text = (ROOT / "docs" / "mappings.md").read_text(encoding="utf-8")
    mapping, vectors, contract, delivery = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert SourceMapping.model_validate(tomllib.loads(mapping)).source == "shop"
    assert SourceMapping.model_validate(tomllib.loads(vectors)).defaults["space"] == "image"
    assert Contract.model_validate(tomllib.loads(contract)["contract"]).version == 2
    assert Delivery.model_validate(tomllib.loads(delivery)["delivery"]).wait_hours == 6


EXAMPLES = [path for path in (ROOT / "docs" / "examples").glob("*/*.toml") if path.name != "pyproject.toml"]


@pytest.mark.parametrize("path", sorted(EXAMPLES), ids=lambda path: path.stem)
def test_the_files_of_the_worked_examples_are_valid(path: Path) -> None:
    assert load_event_weights(path) if path.stem == "event_weights" else load_mapping(str(path))


def test_the_documented_recipe_names_every_hyperparameter() -> None:
    text = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    found = msgspec.to_builtins(msgspec.toml.decode(recipe, type=Hyperparameters))
    assert not [name for table in found.values() for name, value in table.items() if value is None]
