"""Options of a search: order, page, and what the answer has beside its items; and the setup of an engine's search."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from recsys_tasks.engine.category_meaning import QueryEncoder
from recsys_tasks.search.settings import SearchSettings
from recsys_tasks.wire.items import Sort

RELEVANCE: Final = "relevance"
MAX_RESULTS: Final = 10_000  # matches of a query that are examined


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


class SearchSetup(NamedTuple):
    """What an endpoint gives the search of its engines.

    Attributes:
        settings: of the shop.
        query_encoder: for categories that a query only means; None for none.
        saves_index: whether a new index is written into the bundle's folder, for the next start.
    """

    settings: SearchSettings
    query_encoder: QueryEncoder | None = None
    saves_index: bool = False


DEFAULT_SEARCH: Final = SearchOptions()
COMPLETION: Final = SearchOptions(highlight=True, is_prefix=True)
