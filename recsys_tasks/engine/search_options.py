"""Options of a search: order, page, and what the answer has beside its items."""

from __future__ import annotations

from typing import Final

import msgspec

from recsys_tasks.wire.items import Sort

RELEVANCE: Final = "relevance"


class SearchOptions(msgspec.Struct, frozen=True):
    """What a search returns.

    Attributes:
        sort: order of the results.
        offset: number of results to skip.
        facets: fields whose values are counted; see `engine.facets`.
        explain: whether each result has the shares of its score.
        highlight: whether the matching words of the titles are marked.
        is_prefix: whether the last word may be unfinished.
    """

    sort: Sort = RELEVANCE
    offset: int = 0
    facets: tuple[str, ...] = ()
    explain: bool = False
    highlight: bool = False
    is_prefix: bool = False


DEFAULT_SEARCH: Final = SearchOptions()
COMPLETION: Final = SearchOptions(highlight=True, is_prefix=True)
