"""Learns from a snapshot which items people choose after a search."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from recsys_tasks.engine.query_clicks import LearnedQuery
from recsys_tasks.features.position_bias import click_weights
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.names import ADD_TO_CART, PURCHASE, SEARCH, VIEW

_COLUMNS: Final = [
    *("user_key", "session_start", "item_id", "event_type", "event_time", "query", "shown_at"),
]
_WEIGHTS: Final = {VIEW: 1.0, ADD_TO_CART: 2.0, PURCHASE: 3.0}
_MAX_SECONDS = 600  # between a search and a choice
_MIN_PEOPLE, _MIN_PEOPLE_PER_ITEM = 5, 2
_MAX_QUERIES, _MAX_ITEMS, _MAX_CATEGORIES = 100_000, 100, 5
_MIN_CATEGORY_SHARE = 0.1
_FULL_LIFT = 10.0  # ratio to other people's choices from which an association counts in full


def learn_query_clicks(snapshot: Snapshot) -> list[LearnedQuery]:
    """Returns the queries of at least five people with the items that at least two of them chose, most people first.

    A choice is an action within ten minutes after the search, before the next one of the session. Each person counts
    once per query and item, with the strongest action, corrected for the position at which the item was shown. An item
    counts less if other people choose it nearly as often without the query: the ratio of the two shares (lift) is
    weighted logarithmically, up to tenfold.
    """
    table = snapshot.events_table(_COLUMNS)
    if SEARCH not in table["event_type"].unique().to_pylist():
        return []
    events = table.to_pandas()
    choices = _choices(events, np.asarray(snapshot.examination_propensities))
    searchers = _searchers(events)
    queries = searchers[searchers >= _MIN_PEOPLE].nlargest(_MAX_QUERIES)
    choices = choices[choices["query"].isin(queries.index)]
    by_item = choices.groupby(["query", "item_id"])["weight"].agg(["size", "sum"]).reset_index()
    by_item = by_item[by_item["size"] >= _MIN_PEOPLE_PER_ITEM]
    by_item["score"] = by_item["sum"] * _selectivity(by_item, queries, events)
    by_item = by_item[by_item["score"] > 0]
    if by_item.empty:
        return []
    category_of = _category_of(snapshot)
    return [
        _learned_query(str(query), int(queries[query]), items, category_of)
        for query, items in by_item.sort_values("item_id").groupby("query", sort=True)
    ]


def normalize_query(query: str) -> str:
    """Returns a query with single blanks and without case."""
    return " ".join(query.casefold().split())


def _searchers(events: pd.DataFrame) -> pd.Series:
    """Number of people by normalized query."""
    searches = events.loc[events["event_type"] == SEARCH, ["query", "user_key"]].astype(str)
    searches["query"] = searches["query"].map(normalize_query)
    return searches[searches["query"] != ""].groupby("query")["user_key"].nunique()


def _choices(events: pd.DataFrame, propensities: np.ndarray) -> pd.DataFrame:
    """One row per query, item and person: `query`, `item_id`, `user_key`, `weight`."""
    is_search = (events["event_type"] == SEARCH).to_numpy()
    rows = np.arange(len(events))
    search = np.maximum.accumulate(np.where(is_search, rows, -1))  # the last search before each row
    follows = (search >= 0) & ~is_search
    for name in ("user_key", "session_start"):
        values = events[name].to_numpy() if name == "session_start" else events[name].cat.codes.to_numpy()
        follows &= values[search] == values
    seconds = events["event_time"].dt.as_unit("s").astype("int64").to_numpy()
    follows &= seconds - seconds[search] <= _MAX_SECONDS
    chosen = events.loc[follows, ["item_id", "user_key", "event_type"]].astype(str)
    texts = events["query"].astype(str).to_numpy()[search[follows]]
    chosen["query"] = pd.Series(texts, dtype=str, index=chosen.index).map(normalize_query)
    shown_at = events["shown_at"].to_numpy()[follows] if "shown_at" in events else np.zeros(len(chosen), int)
    chosen["weight"] = chosen["event_type"].map(_WEIGHTS) * click_weights(shown_at, propensities)
    chosen = chosen[chosen["query"] != ""]
    return chosen.groupby(["query", "item_id", "user_key"], as_index=False)["weight"].max()


def _selectivity(by_item: pd.DataFrame, searchers: pd.Series, events: pd.DataFrame) -> np.ndarray:
    """How much more often people choose an item after the query than others do at all, from 0 to 1 [N]."""
    actions = events.loc[events["item_id"].astype(str).isin(set(by_item["item_id"])), ["item_id", "user_key"]]
    people_of_item = actions.astype(str).groupby("item_id")["user_key"].nunique()
    num_people = events["user_key"].nunique()
    with_query = by_item["query"].map(searchers).to_numpy(float)
    others = people_of_item[by_item["item_id"]].to_numpy(float) - by_item["size"].to_numpy()
    share_of_others = (others + 1) / (num_people - with_query + 2)
    lift = by_item["size"].to_numpy() / with_query / share_of_others
    return np.asarray(np.clip(np.log(np.maximum(lift, 1.0)) / np.log(_FULL_LIFT), 0.0, 1.0))


def _category_of(snapshot: Snapshot) -> dict[str, str]:
    items = snapshot.item_table().select(["item_id", "category_path"])
    return dict(zip(items["item_id"].to_pylist(), items["category_path"].to_pylist(), strict=True))


def _learned_query(query: str, people: int, items: pd.DataFrame, category_of: dict[str, str]) -> LearnedQuery:
    best = items.nlargest(_MAX_ITEMS, "score")
    shares = items.groupby(items["item_id"].map(category_of).fillna(""))["score"].sum() / items["score"].sum()
    shares = shares.drop("", errors="ignore")
    shares = shares[shares >= _MIN_CATEGORY_SHARE].nlargest(_MAX_CATEGORIES)
    return LearnedQuery(
        query,
        people,
        best["item_id"].tolist(),
        (best["score"] / best["score"].max()).round(4).tolist(),
        {str(path): round(float(share), 4) for path, share in shares.items()},
    )
