"""From a source's name to its batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.ingestion import otto
from recsys_tasks.ingestion.batch import SourceBatch
from recsys_tasks.ingestion.flat_files import read_flat
from recsys_tasks.ingestion.mapping import load_mapping
from recsys_tasks.interval import Interval

_DEFAULT = "complete_journey"


def read_source(source: str, paths: Sequence[Path] = (), interval: Interval | None = None) -> Iterator[SourceBatch]:
    """The batches of a source: `complete_journey`, `otto`, a mapping that comes along, or a mapping file.

    Files are a batch each. An interval applies to `complete_journey`, whose data is not in files of ours.

    Raises:
        ConfigurationError: no such source, or paths that it needs or does not take.
        MalformedFile: a file cannot be read.
    """
    if source == _DEFAULT:
        from recsys_tasks.ingestion import complete_journey  # reads with pandas, which other sources do without

        if paths:
            raise ConfigurationError(f"{source} comes from its package and takes no paths; got {paths[0]}")
        yield from complete_journey.read_complete_journey(interval)
        return
    mapping = None if source == otto.SOURCE else load_mapping(source)
    if not paths:
        raise ConfigurationError(f"source {source!r} reads files: name at least one path")
    for path in paths:
        yield otto.read_otto(path) if mapping is None else read_flat(mapping, path)
