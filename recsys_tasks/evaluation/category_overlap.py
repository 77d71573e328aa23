"""Do lists follow the session? Share of each list's items whose category (first two levels) is that of one of the
session's latest three items.

The same share among the items that users chose next is the reference: with a lower share, a list follows the session
too little, with a higher one too much.

Letters in shapes: B sessions, L latest items, N items of a list, E events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from recsys_tasks.engine.catalog import CodedColumn
from recsys_tasks.evaluation.markdown import markdown_table
from recsys_tasks.evaluation.metrics import bootstrap_interval
from recsys_tasks.evaluation.protocol import PredictionTasks
from recsys_tasks.features.sequences import Timeline, expand_ranges
from recsys_tasks.names import CATEGORY_SEPARATOR, FIRST_ITEM, PADDING_ITEM

_LATEST_ITEMS, _LIST_LENGTH, _CATEGORY_LEVELS = 3, 10, 2
NEXT_ITEM, NEXT_SESSION = "next item of the session", "next session, of users who came back"


@dataclass(frozen=True)
class CategoryOverlap:
    """Items whose category is that of one of the session's latest items.

    Attributes:
        sessions: number of sessions.
        share: mean share of the items.
        interval: 95 % interval of the share, by bootstrap over users.
        hit_share: share of the sessions with at least one such item.
    """

    sessions: int
    share: float
    interval: tuple[float, float]
    hit_share: float


@dataclass(frozen=True)
class CategoryOverlapReport:
    """Overlap of the lists of each model, and of what users chose next, with the session; empty without categories.

    Attributes:
        table: of all sessions whose latest items have a category and whose next item is known, by name.
        single_category: of those whose latest three items have the same category; empty if there are none.
    """

    table: dict[str, CategoryOverlap]
    single_category: dict[str, CategoryOverlap]

    def as_dict(self) -> dict[str, object]:
        """Returns all fields for JSON."""
        return asdict(self)

    def as_markdown(self) -> str:
        """Returns a section of `evaluation.md`."""
        lines = ["", "## Does the list follow the session?", ""]
        if not self.table:
            return (
                "\n".join([*lines, "Not measured: no session has items with a category and a known next item."]) + "\n"
            )
        lines += [
            f"Items of the category (first {_CATEGORY_LEVELS} levels) of one of the session's latest {_LATEST_ITEMS}"
            + f" items, among the first {_LIST_LENGTH} of each list and among what users chose next:",
            "",
            *_as_table(self.table),
        ]
        if self.single_category:
            lines += ["", f"The same where the latest {_LATEST_ITEMS} items are of one category:", ""]
            lines += _as_table(self.single_category)
        return "\n".join(lines) + "\n"


def measure_category_overlap(
    lists: Mapping[str, np.ndarray], category_paths: tuple[str, ...], timeline: Timeline, tasks: PredictionTasks
) -> CategoryOverlapReport:
    """Measures the overlap of lists, and of what users chose next, with the sessions of tasks.

    Args:
        lists: items [B, N] by model, best first, padded with 0.
        category_paths: of the items of the vocabulary, from the first one on.
        timeline: the events.
        tasks: sessions and their next item.
    """
    category = CodedColumn([_top_levels(path) for path in category_paths]).codes
    latest_category, users = category[_latest_items(timeline, tasks)], timeline.user[tasks.first]
    next_item = timeline.item[tasks.target]

    def overlap(is_selected: np.ndarray, row: np.ndarray, items: np.ndarray) -> CategoryOverlap:
        """Of the selected sessions [B], given the row of each item [E]."""
        chosen = is_selected[row] & (items >= FIRST_ITEM)
        row, item = np.unique(np.stack([row[chosen], items[chosen]]), axis=1)
        code = category[item]
        is_hit = np.any((code[:, None] == latest_category[row]) & (code[:, None] >= 0), axis=1)
        hits, sizes = np.bincount(row, is_hit, len(tasks)), np.bincount(row, minlength=len(tasks))
        rows = np.flatnonzero(sizes)
        if not len(rows):
            return CategoryOverlap(0, 0.0, (0.0, 0.0), 0.0)
        shares = hits[rows] / sizes[rows]
        interval = bootstrap_interval(shares, users[rows])
        return CategoryOverlap(len(rows), float(shares.mean()), interval, float((hits[rows] > 0).mean()))

    rows = np.arange(len(tasks))
    shown = {name: items[:, :_LIST_LENGTH] for name, items in lists.items()}
    events = {name: (np.repeat(rows, items.shape[1]), items.ravel()) for name, items in shown.items()}
    events[NEXT_ITEM] = rows, next_item
    events[NEXT_SESSION] = _next_sessions(timeline, tasks)
    has_category = np.any(latest_category >= 0, axis=1) & (next_item >= FIRST_ITEM)
    has_one = has_category & np.all(latest_category == latest_category[:, :1], axis=1)
    tables = [
        {name: overlap(is_selected, *of_rows) for name, of_rows in events.items()} if is_selected.any() else {}
        for is_selected in (has_category, has_one)
    ]
    return CategoryOverlapReport(*tables)


def _latest_items(timeline: Timeline, tasks: PredictionTasks) -> np.ndarray:
    """Returns the latest distinct known items [B, L] of each session, newest first, padded with 0."""
    latest = np.full((len(tasks), _LATEST_ITEMS), PADDING_ITEM)
    for row, (first, target) in enumerate(zip(tasks.first.tolist(), tasks.target.tolist(), strict=True)):
        items = [item for item in reversed(timeline.item[first:target].tolist()) if item >= FIRST_ITEM]
        distinct = list(dict.fromkeys(items))[:_LATEST_ITEMS]
        latest[row, : len(distinct)] = distinct
    return latest


def _as_table(rows: Mapping[str, CategoryOverlap]) -> list[str]:
    """Returns the lines of a Markdown table."""
    cells = [
        [
            name,
            f"{row.sessions:,}",
            f"{row.share:.4f} ({row.interval[0]:.4f} to {row.interval[1]:.4f})",
            f"{row.hit_share:.4f}",
        ]
        for name, row in rows.items()
    ]
    return markdown_table(["items of", "sessions", "share of the items", "sessions with one or more"], cells)


def _top_levels(path: str) -> str:
    return CATEGORY_SEPARATOR.join(path.split(CATEGORY_SEPARATOR)[:_CATEGORY_LEVELS])


def _next_sessions(timeline: Timeline, tasks: PredictionTasks) -> tuple[np.ndarray, np.ndarray]:
    """Returns row and item [E] of the events in the next session of each task's user."""
    following = timeline.session[tasks.first] + 1
    has_next = following < len(timeline.session_start) - 1
    following = np.where(has_next, following, 0)
    begin, end = timeline.session_start[following], timeline.session_start[following + 1]
    has_next &= timeline.user[begin] == timeline.user[tasks.first]
    row, index = expand_ranges(begin, np.where(has_next, end - begin, 0))
    return row, timeline.item[index]
