"""Items told to the endpoint between two models: new ones, and what is new about known ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

import msgspec
import numpy as np

from recsys_tasks.engine.bundle import Bundle
from recsys_tasks.engine.items import Item
from recsys_tasks.engine.scoring import word_vectors
from recsys_tasks.names import FIRST_ITEM

log = logging.getLogger(__name__)

_RAREST = 0.1


class Addition(msgspec.Struct):
    """What was told of an item, and when."""

    item_id: str
    time: datetime
    item: Item


class Additions:
    """The latest that was told of each item; lines of a journal bring it back after a restart."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self._latest: dict[str, Addition] = {}
        self.replay(lines)

    def replay(self, lines: Iterable[bytes]) -> dict[str, Addition]:
        """Takes in what was told; returns what of it is news."""
        decode = msgspec.json.Decoder(Addition).decode
        news: dict[str, Addition] = {}
        for line in lines:
            try:
                addition = decode(line)
            except msgspec.MsgspecError as error:
                log.error("A line that tells of an item cannot be read and counts for nothing here: %s", error)
                continue
            known = self._latest.get(addition.item_id)
            if known is None or known.time <= addition.time:
                self._latest[addition.item_id] = news[addition.item_id] = addition
        return news

    def after(self, bundle: Bundle) -> dict[str, Addition]:
        """What a bundle does not know: items that its model has not seen, and what was told after its cut-off."""
        known = bundle.vocabulary.number_of
        return {
            item_id: addition
            for item_id, addition in self._latest.items()
            if item_id not in known or addition.time > bundle.cutoff
        }


def with_additions(bundle: Bundle, additions: Mapping[str, Addition]) -> Bundle:
    """The bundle with what was told of items. A new one has the vector of its content, and the bias of rare items."""
    told = {item_id: addition.item for item_id, addition in additions.items()}
    texts = {item_id: (item.title, item.category_path, item.brand) for item_id, item in told.items()}
    vocabulary = bundle.vocabulary.with_items(texts)
    later = range(len(bundle.vocabulary), len(vocabulary))
    vectors, bias = _of_content(bundle, [vocabulary.content_of(number) for number in later])
    popularity = bundle.histories.popularity
    least = popularity[popularity > 0].min(initial=1.0)  # nobody took it so far, but it has a place
    popularity = np.concatenate([popularity, np.full(len(later), least)])
    return replace(
        bundle,
        vocabulary=vocabulary,
        items=bundle.items.and_later(vectors, bias),
        catalogue=bundle.catalogue.with_items(vocabulary, told),
        histories=replace(bundle.histories, popularity=popularity),
    )


def _of_content(bundle: Bundle, tokens: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [N, D] and biases [N] of items that have only their content."""
    width = bundle.words.shape[1]
    vectors = np.zeros((len(tokens), width), np.float32)
    for row, numbers in enumerate(tokens):
        if len(numbers):
            vectors[row] = word_vectors(bundle.words, numbers[None], vectors[row][None])[0]
    known = np.asarray(bundle.items.bias[FIRST_ITEM : len(bundle.vocabulary)])
    rare = known[-max(1, int(_RAREST * len(known))) :] if len(known) else np.zeros(1)
    return vectors, np.full(len(tokens), rare.mean(), np.float32)
