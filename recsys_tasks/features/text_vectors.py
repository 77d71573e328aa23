"""Text vectors of items: the text of an item, and a cache of vectors on disk.

The cache is a folder per encoder of Parquet files that are only added, each written atomically: a killed process loses
the texts of the file it was encoding. A vector is found by the digest of its text.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_tasks.features.text_encoder import TextEncoder, TextKind
from recsys_tasks.names import CATEGORY_SEPARATOR
from recsys_tasks.storage.folder import Folder

log = logging.getLogger(__name__)
_TEXTS_PER_FILE = 1024
# A quantity after a comma: a number and at most two words, such as ", 14 OZ"; not ", 100% cotton".
_QUANTITY = re.compile(r",\s*\.?\d[\d./]*(?:\s*[^\s,%\d]+){0,2}\s*(?=,|$)")


def compose_item_text(title: str, category_path: str, brand: str = "", description: str = "") -> str:
    """Returns the text of an item that an encoder reads; empty if nothing is known of the item.

    The title without its quantities, then the categories from the narrowest to the widest, the brand and the
    description. A category that the title contains is left out. Thus items that differ in size only have one text.
    Parts in capitals, which encoders read badly, become lower case; short ones ("TV") stay.
    """
    name = lower_capitals(_QUANTITY.sub("", title).strip())
    categories = [lower_capitals(level) for level in reversed(category_path.split(CATEGORY_SEPARATOR))]
    further = [level for level in categories if level.casefold() not in name.casefold()]
    return ", ".join(part for part in (name, *further, brand.strip(), description.strip()) if part)


def encode_cached(texts: Sequence[str], encoder: TextEncoder, folder: Folder, kind: TextKind = "passage") -> np.ndarray:
    """Returns the vectors [N, D] of texts, float16; only texts that the cache lacks are encoded, each once.

    An empty text has the zero vector. One process of a machine encodes at a time; others wait, and read what it wrote.

    Args:
        texts: N texts, in any order, with repetitions.
        encoder: the encoder of missing texts; its name and D identify the vectors of the cache.
        folder: folder of all caches; the encoder's cache is a subfolder, that of queries another.
        kind: whether the texts are passages or queries.
    """
    digests = [_digest(encoder.name, text) if text else b"" for text in texts]
    distinct = {digest: text for digest, text in zip(digests, texts, strict=True) if digest}
    cache = folder / (encoder.name if kind == "passage" else f"{encoder.name}-{kind}")
    with cache.lock():
        row_of, vectors = _read_vectors(cache, distinct, encoder.dimension)
        missing = {digest: text for digest, text in distinct.items() if digest not in row_of}
        if missing:
            _encode_missing(missing, encoder, cache, kind)
            row_of, vectors = _read_vectors(cache, distinct, encoder.dimension)
    empty = len(vectors) - 1
    return vectors[[row_of[digest] if digest else empty for digest in digests]]


def _digest(encoder_name: str, text: str) -> bytes:
    return hashlib.sha256(f"{encoder_name}\0{text}".encode()).digest()


def lower_capitals(text: str) -> str:
    """Returns a text in capitals in lower case; short ones ("TV") and all others as they are."""
    return text.lower() if text.isupper() and any(len(word) > 3 and word.isupper() for word in text.split()) else text


def _encode_missing(missing: Mapping[bytes, str], encoder: TextEncoder, cache: Folder, kind: TextKind) -> None:
    """Encodes texts and adds them to the cache, shortest first, file by file."""
    log.info("Encoding %d item texts with %s; they are cached in %s", len(missing), encoder.name, cache)
    start = time.monotonic()
    digests = sorted(missing, key=lambda digest: len(missing[digest]))
    for at in range(0, len(digests), _TEXTS_PER_FILE):
        part = digests[at : at + _TEXTS_PER_FILE]
        vectors = encoder.encode([missing[digest] for digest in part], kind).astype(np.float16)
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.dimension)
        cache.write_table("vectors", pa.table({"digest": pa.array(part, pa.binary(32)), "vector": values}))
    seconds = time.monotonic() - start
    log.info("Encoded %d item texts in %.1f s (%.0f a second)", len(digests), seconds, len(digests) / seconds)


def _read_vectors(cache: Folder, wanted: Mapping[bytes, str], dimension: int) -> tuple[dict[bytes, int], np.ndarray]:
    """Returns the row of each cached digest that is wanted, and the vectors; the last row is zero."""
    vectors = np.zeros((len(wanted) + 1, dimension), np.float16)
    row_of: dict[bytes, int] = {}
    digests_wanted = pa.array(list(wanted), pa.binary(32))
    for name in cache.names(".parquet"):
        table = cache.read_table(name)
        table = table.filter(pc.is_in(table["digest"], digests_wanted)).combine_chunks()
        rows = [row_of.setdefault(digest, len(row_of)) for digest in table["digest"].to_pylist()]
        vectors[rows] = pc.list_flatten(table["vector"]).to_numpy().reshape(-1, dimension)
    return row_of, vectors
