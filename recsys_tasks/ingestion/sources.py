"""Source registry: resolves a source name to its adapter and returns its batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from recsys_tasks.errors import ConfigurationError, MalformedFile
from recsys_tasks.ingestion import otto
from recsys_tasks.ingestion.batch import SourceBatch
from recsys_tasks.ingestion.flat_files import read_flat_file
from recsys_tasks.ingestion.mapping import SourceMapping, load_mapping
from recsys_tasks.ingestion.remote_files import local_copy
from recsys_tasks.interval import Interval
from recsys_tasks.storage.addresses import is_remote, without_secrets

_DEFAULT_SOURCE = "complete_journey"


def read_source(
    source: str, paths: Sequence[Path | str] = (), interval: Interval | None = None
) -> Iterator[SourceBatch]:
    """Yields the batches of a source: `complete_journey`, `otto`, a built-in mapping or a mapping file.

    Each file is one batch, to be read before the next one is asked for: the copy of a remote file is deleted then. The
    interval applies to `complete_journey` only.

    Args:
        source: name of a built-in source or mapping, or path or address of a mapping file.
        paths: paths of files, or addresses in remote stores.
        interval: time range to read.

    Raises:
        ConfigurationError: unknown source, missing paths, or paths for a source that takes none.
        MalformedFile: a file cannot be read.
        UnavailableError: a remote store does not answer.
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
        if is_remote(str(path)):
            with local_copy(str(path)) as copy:
                yield _with_origin(_read_file(mapping, copy), without_secrets(str(path)))
        else:
            yield _read_file(mapping, Path(path))


def _read_file(mapping: SourceMapping | None, path: Path) -> SourceBatch:
    return otto.read_otto(path) if mapping is None else read_flat_file(mapping, path)


def _with_origin(batch: SourceBatch, address: str) -> SourceBatch:
    """The batch of a local copy, named after the address that it came from, as are its errors."""
    batch.origin = address
    batch.rows = {kind: _rename_errors(rows, address) for kind, rows in batch.rows.items()}
    return batch


def _rename_errors(rows: Iterable[pa.RecordBatch], address: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from rows
    except MalformedFile as error:
        raise MalformedFile(address, error.line, error.problem) from error
