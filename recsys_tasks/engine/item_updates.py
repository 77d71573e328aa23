"""Item updates at the endpoint between two models: new items, and changed attributes of known ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

import msgspec
import numpy as np

from recsys_tasks.engine.bundle import Bundle
from recsys_tasks.engine.scoring import word_vectors
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.wire.items import Item

log = logging.getLogger(__name__)

_SAMPLE_SHARE = 0.1  # of the items; the vocabulary is ordered by popularity


class ItemUpdate(msgspec.Struct):
    """One update of an item, and its time."""

    item_id: str
    time: datetime
    item: Item


class ItemUpdates:
    """Latest update of each item; rebuilt from the event log at startup.

    Args:
        lines: of the event log, as JSON.
    """

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self._latest: dict[str, ItemUpdate] = {}
        self.replay(lines)

    def replay(self, lines: Iterable[bytes]) -> dict[str, ItemUpdate]:
        """Applies updates; returns those that replaced an older state, by item id."""
        decode = msgspec.json.Decoder(ItemUpdate).decode
        applied: dict[str, ItemUpdate] = {}
        for line in lines:
            try:
                update = decode(line)
            except msgspec.MsgspecError as error:
                log.error("Skipped an item update that cannot be decoded: %s", error)
                continue
            known = self._latest.get(update.item_id)
            if known is None or known.time <= update.time:
                self._latest[update.item_id] = applied[update.item_id] = update
        return applied

    def latest(self, item_id: str) -> Item | None:
        """The item as its latest update has it; None without one."""
        update = self._latest.get(item_id)
        return None if update is None else update.item

    def missing_from(self, bundle: Bundle) -> dict[str, ItemUpdate]:
        """Updates that a bundle lacks: of items outside its vocabulary, or later than its cut-off."""
        known = bundle.vocabulary.number_of
        return {
            item_id: update
            for item_id, update in self._latest.items()
            if item_id not in known or update.time > bundle.cutoff
        }


def apply_item_updates(bundle: Bundle, updates: Mapping[str, ItemUpdate]) -> Bundle:
    """Returns the bundle with item updates.

    A new item gets its content vector, and the mean bias of the newest tenth of the items, or of the rarest tenth where
    fewer items have a time from which they are available.
    """
    items = {item_id: update.item for item_id, update in updates.items()}
    texts = {item_id: (item.title, item.category_path, item.brand) for item_id, item in items.items()}
    vocabulary = bundle.vocabulary.with_items(texts)
    new_numbers = range(len(bundle.vocabulary), len(vocabulary))
    vectors, bias = _content_vectors(bundle, [vocabulary.item_content(number) for number in new_numbers])
    popularity = bundle.histories.popularity
    min_popularity = popularity[popularity > 0].min(initial=1.0)  # new items rank last, but are not excluded
    popularity = np.concatenate([popularity, np.full(len(new_numbers), min_popularity)])
    return replace(
        bundle,
        vocabulary=vocabulary,
        items=bundle.items.with_added(vectors, bias),
        catalog=bundle.catalog.with_items(vocabulary, items),
        histories=replace(bundle.histories, popularity=popularity),
    )


def _content_vectors(bundle: Bundle, tokens: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [N, D] and biases [N] of cold-start items, from their content tokens."""
    width = bundle.words.shape[1]
    vectors = np.zeros((len(tokens), width), np.float32)
    for row, numbers in enumerate(tokens):
        if len(numbers):
            vectors[row] = word_vectors(bundle.words, numbers[None], vectors[row][None])[0]
    bias = np.asarray(bundle.items.bias[FIRST_ITEM : len(bundle.vocabulary)])
    similar = bias[_newest_or_rarest(bundle)] if len(bias) else np.zeros(1)
    return vectors, np.full(len(tokens), similar.mean(), np.float32)


def _newest_or_rarest(bundle: Bundle) -> np.ndarray:
    """Positions of a tenth of the items: those that became available last before the cut-off, else the rarest."""
    available_since = bundle.catalog.available_since[FIRST_ITEM : len(bundle.vocabulary)]
    count = max(1, int(_SAMPLE_SHARE * len(available_since)))
    candidates = np.flatnonzero(available_since <= bundle.cutoff.timestamp())  # not those without a time (NaN)
    if len(candidates) < count:
        return np.arange(len(available_since) - count, len(available_since))
    return candidates[np.argsort(available_since[candidates], kind="stable")[-count:]]
