"""LRU cache bounded by bytes.

Own code instead of `cachetools.LRUCache(getsizeof=...)`: that one rejects a value larger than the limit and has no
public order, which warming a new model (most recent first), `demote` and `shrink` need.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """Cache that evicts the least recently used values.

    Args:
        max_bytes: limit of all values together; the latest value stays even if it is larger.
        size_of: returns the bytes of a value.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        self._max_bytes, self._size_of = max_bytes, size_of
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: Key) -> Value | None:
        """Returns a value and marks it as most recently used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, value: Value) -> None:
        """Stores a value as the most recently used one; evicts others beyond the limit."""
        self.discard(key)
        size = self._size_of(value)
        self._entries[key] = value, size
        self._num_bytes += size
        self.shrink(self._max_bytes)

    @property
    def free_bytes(self) -> int:
        """Bytes left before the next eviction."""
        return self._max_bytes - self._num_bytes

    def demote(self, key: Key) -> None:
        """Marks a value as least recently used."""
        self._entries.move_to_end(key, last=False)

    def discard(self, key: Key) -> None:
        """Removes a value if present."""
        _, size = self._entries.pop(key, (None, 0))
        self._num_bytes -= size

    def shrink(self, max_bytes: int) -> None:
        """Evicts values beyond a number of bytes; keeps at least one."""
        while self._num_bytes > max_bytes and len(self._entries) > 1:
            _, (_, size) = self._entries.popitem(last=False)
            self._num_bytes -= size

    def __contains__(self, key: Key) -> bool:
        """Whether a key is present; does not count as use."""
        return key in self._entries

    def items_by_recency(self) -> list[tuple[Key, Value]]:
        """All keys and values, most recently used first."""
        return [(key, value) for key, (value, _) in reversed(list(self._entries.items()))]
