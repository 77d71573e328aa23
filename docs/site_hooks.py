"""MkDocs hooks: reference pages generated from the code that they describe."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_MERMAID = "assets/mermaid.min.js"  # fetched by `make docs`; without it, diagrams are shown as text


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds Mermaid if it was fetched, so that the theme loads none from a CDN."""
    if (Path(config.docs_dir) / _MERMAID).exists():
        config.extra_javascript.append(_MERMAID)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    pages: dict[str, Callable[[], str]] = {"settings": _settings, "cli": _command_line, "http": _http}
    for name, render in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=render()))
    return files


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _settings() -> str:
    from recsys_tasks.settings import Settings

    prefix = Settings.model_config["env_prefix"]
    rows = (
        (f"`{prefix}{name.upper()}`", "" if field.default in (None, ()) else f"`{field.default}`", field.description)
        for name, field in Settings.model_fields.items()
    )
    return (
        "# Settings\n\nEvery setting is an environment variable, or a line of a `.env` file in the working folder. A"
        " variable with this prefix that is no setting is reported at start.\n\n"
        + _table(("Variable", "Default", "Meaning"), rows)
    )


def _command_line() -> str:
    from recsys_tasks.cli import build_parser

    verbs = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    parts = ["# Command line\n\n`python -m recsys_tasks VERB`; exit status 0, 1 (failed) or 2 (wrong use).\n"]
    for name, parser in verbs.choices.items():
        rows = [
            (f"`{', '.join(action.option_strings) or action.metavar or action.dest}`", action.help or "")
            for action in parser._actions
            if not isinstance(action, argparse._HelpAction)
        ]
        table = "\n" + _table(("Argument", "Meaning"), rows) if rows else ""
        parts.append(f"## {name}\n\n{parser.description or ''}\n{table}")
    return "\n".join(parts)


def _http() -> str:
    from recsys_tasks.serving.openapi import build_openapi_document

    api: dict[str, Any] = json.loads(build_openapi_document())
    about = api["info"].get("description", "")
    parts = [f"# HTTP API\n\nGenerated from `GET /openapi.json`, which describes every field. {about}\n"]
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"## {method.upper()} {path}\n\n{operation.get('summary', '')}\n\n{operation.get('description', '')}\n"
            )
            for body in operation.get("requestBody", {}).get("content", {}).values():
                if "example" in body:
                    parts.append(f"```json\n{json.dumps(body['example'], indent=2, ensure_ascii=False)}\n```\n")
            rows = [(status, answer.get("description", "")) for status, answer in operation["responses"].items()]
            parts.append(_table(("Status", "Meaning"), rows))
    return "\n".join(parts)
