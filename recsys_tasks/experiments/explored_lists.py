"""Reads the lists of recommendations that exploration filled, from which other models can be judged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from recsys_tasks.experiments.counterfactual import ExploredLists
from recsys_tasks.interval import Interval
from recsys_tasks.warehouse import statement


class LoggedLists(NamedTuple):
    """Explored lists of users, made from nothing but their recorded actions.

    Attributes:
        user_ids: user of each list [L].
        seconds: time of each list, in seconds since 1970 [L].
        item_ids: the distinct items; `explored.item` has indices into it.
        explored: the lists; the user is the cluster.
    """

    user_ids: list[str]
    seconds: np.ndarray
    item_ids: list[str]
    explored: ExploredLists

    def keep(self, chosen: np.ndarray) -> LoggedLists:
        """Returns the lists of a mask [L]."""
        logged = self.explored
        kept, place = chosen[logged.list], np.cumsum(chosen) - 1
        explored = ExploredLists(
            cluster=logged.cluster[chosen],
            share=logged.share[chosen],
            num_candidates=logged.num_candidates[chosen],
            list=place[logged.list[kept]],
            position=logged.position[kept],
            rank=logged.rank[kept],
            item=logged.item[kept],
            clicked=logged.clicked[kept],
        )
        user_ids = [user for user, is_chosen in zip(self.user_ids, chosen.tolist(), strict=True) if is_chosen]
        return LoggedLists(user_ids, self.seconds[chosen], self.item_ids, explored)


def load_explored_lists(connection: Connection, between: Interval, max_lists: int) -> LoggedLists:
    """Returns a sample, by digest, of at most `max_lists` explored lists of an interval."""
    rows = connection.execute(statement("experiments/explored_lists"), {**between.bounds, "max_lists": max_lists}).all()
    place: dict[str, int] = {}
    firsts = []
    for row in rows:
        if row.request_id not in place:
            place[row.request_id] = len(place)
            firsts.append(row)
    items = {item_id: number for number, item_id in enumerate(dict.fromkeys(row.item_id for row in rows))}
    users = {user_id: number for number, user_id in enumerate(dict.fromkeys(row.user_id for row in firsts))}
    explored = ExploredLists(
        cluster=np.asarray([users[row.user_id] for row in firsts], np.int64),
        share=np.asarray([row.explored_share for row in firsts], np.float64),
        num_candidates=np.asarray([row.candidates for row in firsts], np.int64),
        list=np.asarray([place[row.request_id] for row in rows], np.int64),
        position=np.asarray([row.position for row in rows], np.int64),
        rank=np.asarray([row.item_rank for row in rows], np.int64),
        item=np.asarray([items[row.item_id] for row in rows], np.int64),
        clicked=np.asarray([row.clicked for row in rows], bool),
    )
    seconds = np.asarray([row.shown_at.timestamp() for row in firsts], np.float64)
    return LoggedLists([row.user_id for row in firsts], seconds, list(items), explored)
