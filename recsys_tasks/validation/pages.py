"""Pages of the data docs: plain HTML that requests nothing from any host; Great Expectations loads the classes by the
names in `context.py`.

Its own pages load styles and scripts from other hosts, and print delivered values unescaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from great_expectations.render.renderer.site_builder import SiteBuilder

_SEVERITIES = ("critical", "warning", "info")


class ResultRenderer:
    """Renders the result of a suite on a batch: failed expectations first, the worst of them at the top."""

    def render(self, result: Any) -> dict[str, Any]:
        """Returns the template context of a validation result."""
        document = result.to_json_dict()
        document["results"].sort(key=_order)
        document["meta"].setdefault("failing_rows", [])
        root = "../" * (document["suite_name"].count(".") + 4)  # validations, suite, run, time
        return {"template": "result.html", "root": root, "document": document}


class SuiteRenderer:
    """Renders a suite."""

    def render(self, suite: Any) -> dict[str, Any]:
        """Returns the template context of a suite."""
        root = "../" * (suite.name.count(".") + 1)
        return {"template": "suite.html", "root": root, "document": suite.to_json_dict()}


class IndexRenderer:
    """Renders the index of batches and suites."""

    def render(self, links: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the template context of the index."""
        return {"template": "index.html", "root": "", "document": links}


class PageView:
    """Writes a template context as HTML, escaped."""

    def __init__(self) -> None:
        loader = jinja2.PackageLoader("recsys_tasks.validation")
        self._pages = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)

    def render(self, document: Mapping[str, Any], **_: Any) -> str:
        """Returns the HTML of a page."""
        return self._pages.get_template(document["template"]).render(document)


class OfflineSiteBuilder(SiteBuilder):  # type: ignore[misc]
    """Builds the site without the fonts, images and styles that Great Expectations copies into it."""

    def __init__(self, data_context: Any, store_backend: Any, **options: Any) -> None:
        super().__init__(data_context, store_backend, **options)
        self.target_store.copy_static_assets = lambda: None


def _order(check: Mapping[str, Any]) -> tuple[bool, int]:
    return check["success"], _SEVERITIES.index(check["expectation_config"]["severity"])
