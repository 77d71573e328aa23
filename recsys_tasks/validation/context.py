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


def validation_context(home: Path) -> EphemeralDataContext:
    """A context whose validation results and docs live under `home`."""
    results = {
        "class_name": "ValidationResultsStore",
        "store_backend": _folder("TupleFilesystemStoreBackend", home / "results"),
    }
    site = {
        "class_name": "SiteBuilder",
        "store_backend": _folder("TupleFilesystemStoreBackend", home / "data_docs"),
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    in_memory = {"class_name": "InMemoryStoreBackend"}
    config = DataContextConfig(
        config_version=4,
        stores={
            "expectations_store": {"class_name": "ExpectationsStore", "store_backend": in_memory},
            "validation_results_store": results,
            "checkpoint_store": {"class_name": "CheckpointStore", "store_backend": in_memory},
            "validation_definition_store": {"class_name": "ValidationDefinitionStore", "store_backend": in_memory},
        },
        expectations_store_name="expectations_store",
        validation_results_store_name="validation_results_store",
        checkpoint_store_name="checkpoint_store",
        data_docs_sites={SITE: site},
        progress_bars={"globally": False},
    )
    return great_expectations.get_context(mode="ephemeral", project_config=config)


def data_docs_address(home: Path, served_at: str | None) -> str:
    """Where a person opens the data docs: the URL they are served at, or the file."""
    return served_at or (home / "data_docs" / "index.html").as_uri()


def _folder(class_name: str, path: Path) -> dict[str, str]:
    path.mkdir(parents=True, exist_ok=True)
    return {"class_name": class_name, "base_directory": str(path)}
