"""The LRU cache evicts by recency and stays within its bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.cache import LRUCache

KEYS = st.integers(0, 6)


@given(st.lists(st.tuples(KEYS, st.integers(0, 9)), max_size=40))
def test_the_most_recently_used_values_stay(uses: list[tuple[int, int]]) -> None:
    cache: LRUCache[int, int] = LRUCache(20, lambda size: size)
    expected: list[tuple[int, int]] = []
    for key, size in uses:
        if cache.get(key) is None:
            cache.put(key, size)
            expected.append((key, size))
        else:
            used = next(entry for entry in expected if entry[0] == key)
            expected.remove(used)
            expected.append(used)
        while sum(size for _, size in expected) > 20:
            expected.pop(0)
        assert cache.items_by_recency() == expected[::-1]
        assert cache.free_bytes == 20 - sum(size for _, size in expected)


def test_a_value_larger_than_the_limit_stays_until_the_next() -> None:
    cache: LRUCache[str, int] = LRUCache(20, lambda size: size)
    cache.put("a", 5)
    cache.put("b", 100)
    assert [key for key, _ in cache.items_by_recency()] == ["b"]
    cache.put("c", 5)
    assert [key for key, _ in cache.items_by_recency()] == ["c"]


def test_discarded_and_demoted_values_make_room() -> None:
    cache: LRUCache[str, int] = LRUCache(20, lambda size: size)
    for key in "abc":
        cache.put(key, 6)
    cache.demote("c")
    cache.discard("a")
    cache.discard("a")
    assert [key for key, _ in cache.items_by_recency()] == ["b", "c"]
    cache.put("a", 12)
    assert [key for key, _ in cache.items_by_recency()] == ["a", "b"]
    cache.shrink(12)
    assert [key for key, _ in cache.items_by_recency()] == ["a"]
    assert "b" not in cache
