"""The sentence encoder of an endpoint: loaded at its first use; the vectors of the latest queries are kept."""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recsys_tasks.errors import InvariantError

if TYPE_CHECKING:
    from recsys_tasks.features.text_encoder import TextEncoder

log = logging.getLogger(__name__)
_CACHED_QUERIES = 10_000


class CachedQueryEncoder:
    """Encodes each query once.

    Args:
        setting: `RECSYS_TEXT_ENCODER`.
        folder: of the packaged encoder's files.
    """

    def __init__(self, setting: str, folder: Path) -> None:
        self._setting, self._folder = setting, folder
        self._vectors: OrderedDict[str, np.ndarray] = OrderedDict()

    @cached_property
    def _encoder(self) -> TextEncoder | None:
        from recsys_tasks.features.text_encoder import load_text_encoder  # optional dependencies

        return load_text_encoder(self._setting, self._folder)

    def name(self) -> str | None:
        """See `QueryEncoder`; loads the encoder."""
        return None if self._encoder is None else self._encoder.name

    def encode(self, query: str) -> np.ndarray:
        """See `QueryEncoder`.

        Raises:
            InvariantError: there is no encoder; `name` is None then.
        """
        if self._encoder is None:
            raise InvariantError("queries cannot be encoded without an encoder")
        vector = self._vectors.get(query)
        if vector is None:
            vector = self._vectors[query] = self._encoder.encode([query], "query")[0]
            if len(self._vectors) > _CACHED_QUERIES:
                self._vectors.popitem(last=False)
        else:
            self._vectors.move_to_end(query)
        return vector
