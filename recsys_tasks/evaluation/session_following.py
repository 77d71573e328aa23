"""How far lists follow the session: the share of their items from the categories of the session's latest items, beside
that share in what users really did next.

A list of habits ignores that a user has looked at three items of another kind; a list of the session alone ignores that
most of the next basket is habit. Neither share is right by itself: the users' next sessions tell.

Letters in shapes: B sessions, L latest items, N items of a list, V items in the vocabulary, E events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from recsys_tasks.engine.catalog import CodedColumn
from recsys_tasks.evaluation.metrics import bootstrap_interval
from recsys_tasks.evaluation.protocol import PredictionTasks
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.names import CATEGORY_SEPARATOR, FIRST_ITEM

_LATEST_ITEMS, _LIST_LENGTH, _CATEGORY_LEVELS = 3, 10, 2
NEXT_ITEM, NEXT_SESSION = "next item of the session", "next session of the user"


@dataclass(frozen=True)
class Following:
    """Items from the categories of the session's latest items.

    Attributes:
        sessions: number of sessions.
        share: mean share of the items.
        interval: 95 % interval of the share, by bootstrap over users.
        any: share of the sessions with at least one such item.
    """

    sessions: int
    share: float
    interval: tuple[float, float]
    any: float


@dataclass(frozen=True)
class FollowingReport:
    """How far the lists of each model, and what users did next, follow the session; empty without categories.

    Attributes:
        table: of all sessions with categories, by name.
        focused: of those whose latest items all have the same category; empty if there are none.
    """

    table: dict[str, Following]
    focused: dict[str, Following]

    def as_dict(self) -> dict[str, object]:
        """Returns all fields for JSON."""
        return asdict(self)

    def as_markdown(self) -> str:
        """Returns a section of `evaluation.md`."""
        lines = ["", "## Does the list follow the session?", ""]
        if not self.table:
            return "\n".join([*lines, "Not measured: no session has items with a category."]) + "\n"
        lines += [
            f"Items from the categories (first {_CATEGORY_LEVELS} levels) of the session's latest {_LATEST_ITEMS} items"
            + f" in the first {_LIST_LENGTH} of each list, and in what users did next:",
            "",
            *_as_table(self.table),
        ]
        if self.focused:
            lines += ["", f"The same where the latest {_LATEST_ITEMS} items are of one category:", ""]
            lines += _as_table(self.focused)
        return "\n".join(lines) + "\n"


def measure_following(
    lists: Mapping[str, np.ndarray], category_paths: tuple[str, ...], timeline: Timeline, tasks: PredictionTasks
) -> FollowingReport:
    """Measures how far lists, and what users did next, follow the sessions of tasks.

    Args:
        lists: items [B, N] by model, best first, padded with 0.
        category_paths: of the items of the vocabulary, from the first one on.
        timeline: the events.
        tasks: sessions and their next item.
    """
    category = CodedColumn([_top_levels(path) for path in category_paths]).codes
    position = tasks.target[:, None] - 1 - np.arange(_LATEST_ITEMS)
    latest = np.where(position >= tasks.first[:, None], timeline.item[np.maximum(position, 0)], 0)
    wanted, users = category[latest], timeline.user[tasks.first]
    is_focused = (wanted[:, 0] >= 0) & np.all(wanted == wanted[:, :1], axis=1)

    def follow(is_asked: np.ndarray, row: np.ndarray, items: np.ndarray) -> Following:
        """Of the asked sessions [B], given the row of each item [E]."""
        chosen = is_asked[row] & (items >= FIRST_ITEM)
        row, code = row[chosen], category[items[chosen]]
        hits = np.bincount(row, ((code[:, None] == wanted[row]) & (code[:, None] >= 0)).any(1), len(tasks))
        sizes = np.bincount(row, minlength=len(tasks))
        asked = np.flatnonzero(sizes)
        shares = hits[asked] / sizes[asked]
        if not len(asked):
            return Following(0, 0.0, (0.0, 0.0), 0.0)
        interval = bootstrap_interval(shares, users[asked])
        return Following(len(asked), float(shares.mean()), interval, float((hits[asked] > 0).mean()))

    rows = np.arange(len(tasks))
    shown = {name: items[:, :_LIST_LENGTH] for name, items in lists.items()}
    events = {name: (np.repeat(rows, items.shape[1]), items.ravel()) for name, items in shown.items()}
    events[NEXT_ITEM] = rows, timeline.item[tasks.target]
    events[NEXT_SESSION] = _next_sessions(timeline, tasks)
    tables = [
        {name: follow(is_asked, *of_rows) for name, of_rows in events.items()} if is_asked.any() else {}
        for is_asked in (np.any(wanted >= 0, axis=1), is_focused)
    ]
    return FollowingReport(*tables)


def _as_table(rows: Mapping[str, Following]) -> list[str]:
    """Returns the lines of a Markdown table."""
    header = ["| items of | sessions | share of the items | sessions with one or more |", "| --- | --- | --- | --- |"]
    return header + [
        f"| {name} | {row.sessions:,} | {row.share:.4f} ({row.interval[0]:.4f} to {row.interval[1]:.4f}) |"
        f" {row.any:.4f} |"
        for name, row in rows.items()
    ]


def _top_levels(path: str) -> str:
    return CATEGORY_SEPARATOR.join(path.split(CATEGORY_SEPARATOR)[:_CATEGORY_LEVELS])


def _next_sessions(timeline: Timeline, tasks: PredictionTasks) -> tuple[np.ndarray, np.ndarray]:
    """Returns row and item [E] of the events in the next session of each task's user."""
    following = timeline.session[tasks.first] + 1
    has_next = following < len(timeline.session_start) - 1
    following = np.where(has_next, following, 0)
    begin, end = timeline.session_start[following], timeline.session_start[following + 1]
    has_next &= timeline.user[begin] == timeline.user[tasks.first]
    length = np.where(has_next, end - begin, 0)
    row = np.repeat(np.arange(len(tasks)), length)
    index = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length) + begin[row]
    return row, timeline.item[index]
