"""Source registry: resolves a source name to its adapter and returns its batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.ingestion import otto
from recsys_tasks.ingestion.batch import SourceBatch
from recsys_tasks.ingestion.flat_files import read_flat_file
from recsys_tasks.ingestion.mapping import load_mapping
from recsys_tasks.interval import Interval

_DEFAULT_SOURCE = "complete_journey"


def read_source(source: str, paths: Sequence[Path] = (), interval: Interval | None = None) -> Iterator[SourceBatch]:
    """Yields the batches of a source: `complete_journey`, `otto`, a built-in mapping or a mapping file.

    Each file is one batch. The interval applies to `complete_journey` only.

    Raises:
        ConfigurationError: unknown source, missing paths, or paths for a source that takes none.
        MalformedFile: a file cannot be read.
    """
    if source == _DEFAULT_SOURCE:
        from recsys_tasks.ingestion import complete_journey  # imports pandas, which other sources do not need

        if paths:
            raise ConfigurationError(f"{source} reads from its package and takes no paths; got {paths[0]}")
        yield from complete_journey.read_complete_journey(interval)
        return
    mapping = None if source == otto.SOURCE else load_mapping(source)
    if not paths:
        raise ConfigurationError(f"source {source!r} reads files: name at least one path")
    for path in paths:
        yield otto.read_otto(path) if mapping is None else read_flat_file(mapping, path)
