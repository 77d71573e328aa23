"""What was used last, as much as fits into a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A table that drops the values longest not used.

    Args:
        most_bytes: that all its values have together, but for the latest one, which always stays.
        size_of: how many a value has.
    """

    def __init__(self, most_bytes: int, size_of: Callable[[Value], int]) -> None:
        self._most_bytes, self._size_of = most_bytes, size_of
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> Value | None:
        """A value, which counts as used now."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: Key, value: Value) -> None:
        """Takes in a value, as the latest one."""
        self.drop(key)
        size = self._size_of(value)
        self._values[key] = value, size
        self._bytes += size
        self.shrink(self._most_bytes)

    @property
    def free_bytes(self) -> int:
        """How many more it takes before anything is dropped."""
        return self._most_bytes - self._bytes

    def age(self, key: Key) -> None:
        """Makes a value the one longest not used."""
        self._values.move_to_end(key, last=False)

    def drop(self, key: Key) -> None:
        """Forgets a value."""
        _, size = self._values.pop(key, (None, 0))
        self._bytes -= size

    def shrink(self, most_bytes: int) -> None:
        """Drops what does not fit into fewer bytes."""
        while self._bytes > most_bytes and len(self._values) > 1:
            _, (_, size) = self._values.popitem(last=False)
            self._bytes -= size

    def __contains__(self, key: Key) -> bool:
        """Whether it is there; that is no use of it."""
        return key in self._values

    def latest_first(self) -> list[tuple[Key, Value]]:
        """All of it, the latest used first."""
        return [(key, value) for key, (value, _) in reversed(list(self._values.items()))]
