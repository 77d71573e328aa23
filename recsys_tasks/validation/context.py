"""Great Expectations context of this installation.

Suites, results and data docs are stored in files, so that the docs have history. Data sources stay in memory, so that
no password is written to a file.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import great_expectations
from great_expectations.data_context import EphemeralDataContext
from great_expectations.data_context.types.base import DataContextConfig

from recsys_tasks.storage.folder import Folder

# It logs over two hundred lines about its stores for each validation, in which the reason of a failure would drown.
logging.getLogger("great_expectations").setLevel(logging.WARNING)

SITE = "data_docs"
_MAX_INDEXED_RUNS = 500  # latest runs in the index; each run adds over 1 ms to every index build
_MATCH_ALL = {"matches_regex": "."}  # the default filter hides runs named "profiling…"


def validation_context(home: Folder) -> EphemeralDataContext:
    """Returns a context with suites, validation results and data docs under `home`.

    Suites are stored only for their pages in the data docs: building the index removes pages of anything not stored.
    """
    view = _page_class("PageView")
    in_memory = {"class_name": "InMemoryStoreBackend"}
    site = {
        **_page_class("OfflineSiteBuilder"),
        "show_how_to_buttons": False,
        "store_backend": _folder(home / "data_docs"),
        "site_index_builder": {
            "class_name": "DefaultSiteIndexBuilder",
            "validation_results_limit": _MAX_INDEXED_RUNS,
            "renderer": _page_class("IndexRenderer"),
            "view": view,
        },
        "site_section_builders": {
            "profiling": "None",
            "expectations": {"renderer": _page_class("SuiteRenderer"), "view": view},
            "validations": {
                "run_name_filter": _MATCH_ALL,
                "renderer": _page_class("ResultRenderer"),
                "view": view,
            },
        },
    }
    config = DataContextConfig(
        config_version=4,
        stores={
            "expectations_store": {"class_name": "ExpectationsStore", "store_backend": _folder(home / "suites")},
            "validation_results_store": {
                "class_name": "ValidationResultsStore",
                "store_backend": _folder(home / "results"),
            },
            "checkpoint_store": {"class_name": "CheckpointStore", "store_backend": in_memory},
            "validation_definition_store": {"class_name": "ValidationDefinitionStore", "store_backend": in_memory},
        },
        expectations_store_name="expectations_store",
        validation_results_store_name="validation_results_store",
        checkpoint_store_name="checkpoint_store",
        data_docs_sites={SITE: site},
        progress_bars={"globally": False},
        analytics_enabled=False,
    )
    return great_expectations.get_context(mode="ephemeral", project_config=config)


def resolve_data_docs_url(home: Folder, served_url: str | None) -> str:
    """Returns the URL of the data docs: the served one, or that of the file."""
    index = f"{home.address}/data_docs/index.html"
    return served_url or (index if home.local_path is None else Path(index).as_uri())


def _page_class(name: str) -> dict[str, str]:
    """Names a class of `pages.py` in the configuration."""
    return {"module_name": "recsys_tasks.validation.pages", "class_name": name}


def _folder(folder: Folder) -> dict[str, str]:
    return {
        "module_name": "recsys_tasks.validation.folder_store",
        "class_name": "FolderStoreBackend",
        "address": folder.address,
    }
