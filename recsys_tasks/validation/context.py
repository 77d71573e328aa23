"""The Great Expectations project of this installation.

Results and data docs are kept on disk, so that the docs have history; the connection to the warehouse is
only in memory, so that no password reaches a file.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import great_expectations
from great_expectations.data_context import EphemeralDataContext
from great_expectations.data_context.types.base import DataContextConfig

SITE = "data_docs"
_LISTED = 500  # latest runs that the index lists: listing one takes more than a millisecond, each time
_ALL = {"matches_regex": "."}  # or else a batch of a source that is named "profiling" would not be shown


def validation_context(home: Path) -> EphemeralDataContext:
    """A context whose suites, validation results and docs live under `home`.

    The suites are kept only so that the docs have a page for each: an index that is built removes the pages of what
    is not in a store.
    """
    in_memory = {"class_name": "InMemoryStoreBackend"}
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": _folder(home / "data_docs"),
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder", "validation_results_limit": _LISTED},
        "site_section_builders": {"profiling": "None", "validations": {"run_name_filter": _ALL}},
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


def data_docs_address(home: Path, served_at: str | None) -> str:
    """Where a person opens the data docs: the URL they are served at, or the file."""
    return served_at or (home / "data_docs" / "index.html").as_uri()


def _folder(path: Path) -> dict[str, str]:
    path.mkdir(parents=True, exist_ok=True)
    return {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(path)}
