"""Pages of the data docs: plain HTML that requests nothing from any host; Great Expectations loads the classes by the
names in `context.py`.

Its own pages load styles and scripts from other hosts, and print delivered values unescaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from great_expectations.render.renderer.site_builder import SiteBuilder

_SEVERITIES = ("critical", "warning", "info")


class ResultRenderer:
    """Renders the result of a suite on a batch: failed expectations first, the worst of them at the top."""

    def render(self, result: Any) -> dict[str, Any]:
        """Returns the values of the page of a validation result."""
        document = result.to_json_dict()
        document["results"].sort(key=_order)
        document["meta"].setdefault("failing_rows", [])
        root = "../" * (document["suite_name"].count(".") + 4)  # validations, suite, run, time
        return {"page": "result.html", "root": root, "document": document}


class SuiteRenderer:
    """Renders a suite."""

    def render(self, suite: Any) -> dict[str, Any]:
        """Returns the values of the page of a suite."""
        root = "../" * (suite.name.count(".") + 1)
        return {"page": "suite.html", "root": root, "document": suite.to_json_dict()}


class IndexRenderer:
    """Renders the index of batches and suites."""

    def render(self, links: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of the index page."""
        return {"page": "index.html", "root": "", "document": links}


class PageView:
    """Writes the values of a page as HTML, escaped."""

    def __init__(self) -> None:
        loader = jinja2.FunctionLoader(
            lambda name: resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")
        )
        self._pages = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)

    def render(self, document: Mapping[str, Any], **_: Any) -> str:
        """Returns the HTML of a page."""
        return self._pages.get_template(document["page"]).render(document)


class OfflineSiteBuilder(SiteBuilder):  # type: ignore[misc]
    """Builds the site without the fonts, images and styles that Great Expectations copies into it."""

    def __init__(self, data_context: Any, store_backend: Any, **options: Any) -> None:
        super().__init__(data_context, store_backend, **options)
        self.target_store.copy_static_assets = lambda: None


def _order(check: Mapping[str, Any]) -> tuple[bool, int]:
    return check["success"], _SEVERITIES.index(check["expectation_config"]["severity"])
