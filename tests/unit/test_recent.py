"""What stays of what was used, and what goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.cache import Recent

KEYS = st.integers(0, 6)


@given(st.lists(st.tuples(KEYS, st.integers(0, 9)), max_size=40))
def test_the_latest_that_fit_stay(uses: list[tuple[int, int]]) -> None:
    table: Recent[int, int] = Recent(20, lambda size: size)
    expected: list[tuple[int, int]] = []
    for key, size in uses:
        if table.get(key) is None:
            table.put(key, size)
            expected.append((key, size))
        else:
            known = next(entry for entry in expected if entry[0] == key)
            expected.remove(known)
            expected.append(known)
        while sum(size for _, size in expected) > 20:
            expected.pop(0)
        assert table.latest_first() == expected[::-1]
        assert table.free_bytes == 20 - sum(size for _, size in expected)


def test_what_is_larger_than_the_room_stays_until_the_next() -> None:
    table: Recent[str, int] = Recent(20, lambda size: size)
    table.put("a", 5)
    table.put("b", 100)
    assert [key for key, _ in table.latest_first()] == ["b"]
    table.put("c", 5)
    assert [key for key, _ in table.latest_first()] == ["c"]


def test_what_is_dropped_or_aged_makes_room() -> None:
    table: Recent[str, int] = Recent(20, lambda size: size)
    for key in "abc":
        table.put(key, 6)
    table.age("c")
    table.drop("a")
    table.drop("a")
    assert [key for key, _ in table.latest_first()] == ["b", "c"]
    table.put("a", 12)
    assert [key for key, _ in table.latest_first()] == ["a", "b"]
    table.shrink(12)
    assert [key for key, _ in table.latest_first()] == ["a"]
    assert "b" not in table
