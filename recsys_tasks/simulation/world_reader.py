"""Reads a simulated world from the warehouse, and fits the intents to sessions that no model is trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, Engine

from recsys_tasks.errors import NotEnoughData
from recsys_tasks.interval import Interval
from recsys_tasks.settings import settings
from recsys_tasks.simulation.baskets import Baskets
from recsys_tasks.simulation.histories import History, find_needs, join_histories, usual_intervals
from recsys_tasks.simulation.intents import HeldOutSession, IntentModel, Popularity, fit_intents
from recsys_tasks.simulation.missions import Missions, fit_missions
from recsys_tasks.simulation.scenario import Scenario
from recsys_tasks.simulation.world import Catalog, Item, Shopper, World
from recsys_tasks.warehouse import ArrowReader, statement

_MIN_USER_EVENTS = 5
_SEASON_SMOOTHING_EVENTS = 20.0
_MIN_HELD_OUT_SESSIONS, _MAX_HELD_OUT_SESSIONS = 50, 2_000  # to use later weeks at all; of shoppers, to fit
_LATER_WEEKS = timedelta(weeks=4)
_INSTANT = timedelta(microseconds=1)


class _Actions(NamedTuple):
    """Actions of users, by user and time: user id of each history, and the histories."""

    users: list[str]
    histories: list[History]


class _HeldOut(NamedTuple):
    """Sessions that no model is trained on: their start, and their actions by user."""

    start: datetime
    actions: _Actions


def read_world(engine: Engine, shoppers: int, scenario: Scenario, seed: int) -> World:
    """Reads the world from a warehouse, with a sample of its users as shoppers.

    Raises:
        NotEnoughData: no user has enough actions.
    """
    return read_world_and_sessions(engine, shoppers, scenario, seed)[0]


def read_world_and_sessions(
    engine: Engine, shoppers: int, scenario: Scenario, seed: int
) -> tuple[World, list[HeldOutSession]]:
    """Reads the world, and the held-out sessions of its shoppers that their intents are fitted on.

    Raises:
        NotEnoughData: no user has enough actions.
    """
    with engine.connect() as connection, ArrowReader(engine) as reader:
        items = [Item(*row) for row in _rows(reader, "simulation/catalogue", "item_id title category_path price taken")]
        catalog = Catalog(items)
        sample = {"shoppers": shoppers, "seed": seed, "fewest": _MIN_USER_EVENTS}
        rows = reader.read("simulation/actions", sample)
        if not rows.num_rows:
            raise NotEnoughData("No user has enough actions to derive shoppers from. Ingest more events first")
        seasons = _read_seasons(reader)
        period = connection.execute(statement("simulation/period")).one()
        held_out = _read_held_out(connection, reader, catalog, period.last_complete_journey)
        end = period.last_action + _INSTANT
        now = _read_popularity(reader, catalog, end)
        before = now if held_out.start >= end else _read_popularity(reader, catalog, held_out.start)
    real = _group_actions(rows.filter(pc.invert(rows["is_simulated"])), catalog)
    fit = _Fit(catalog, seasons, held_out, real, np.random.default_rng([seed, 11]))
    sessions = fit.sessions()
    baskets = fit.baskets()
    model = fit.model(sessions, fit.with_missions(*before, before=held_out.start.timestamp()), baskets)
    history_of = dict(zip(*_group_actions(rows, catalog), strict=True))
    population = [_shopper(user, history_of[user], history, items) for user, history in zip(*real, strict=True)]
    popularity = fit.with_missions(*now, before=np.inf)
    return World(items, population, seasons, scenario, seed, model, popularity, baskets), sessions


class _Fit:
    """Fits the model of the shoppers' intents."""

    def __init__(
        self,
        catalog: Catalog,
        seasons: dict[str, dict[int, float]],
        held_out: _HeldOut,
        shoppers: _Actions,
        random: np.random.Generator,
    ) -> None:
        self._catalog, self._held_out, self._shoppers = catalog, held_out, shoppers
        self._demand_in = {month: catalog.seasonal_demand(seasons, month) for month in range(1, 13)}
        self._random = random
        base = np.bincount(catalog.category_of, weights=[item.taken for item in catalog.items]) + 1.0
        self.missions = _fit_missions(held_out.actions.histories, base / base.sum(), random)

    def with_missions(self, lately: np.ndarray, ever: np.ndarray, before: float) -> Popularity:
        """Returns the popularities with that among shoppers of each main mission, from their actions before a time."""
        by_mission = np.zeros((len(self.missions.shares), len(ever)))
        for history in self._shoppers.histories:
            past = history.before(before)
            np.add.at(by_mission[self._main_mission(past)], past.item, 1.0)
        return Popularity(lately, by_mission, ever)

    def sessions(self) -> list[HeldOutSession]:
        """Returns the held-out sessions of shoppers, or a sample of them if there are many."""
        start = self._held_out.start.timestamp()
        later = dict(zip(*self._held_out.actions, strict=True))
        found: list[HeldOutSession] = []
        for user, history in zip(*self._shoppers, strict=True):
            past = history.before(start)
            if user in later and len(past.item):
                found += self._of_household(past, later[user])
        kept = np.sort(self._random.permutation(len(found))[:_MAX_HELD_OUT_SESSIONS])
        return [found[place] for place in kept.tolist()]

    def baskets(self) -> Baskets:
        """Returns the shoppers' baskets before the held-out sessions."""
        start = self._held_out.start.timestamp()
        past = join_histories(history.before(start) for history in self._shoppers.histories)
        sizes = len(self._catalog.items), len(self._catalog.categories)
        return Baskets(past.session, past.item, past.category, *sizes)

    def model(self, sessions: Sequence[HeldOutSession], popularity: Popularity, baskets: Baskets) -> IntentModel:
        """Returns the model fitted to held-out sessions, and the popularity and baskets before them."""
        start = self._held_out.start.timestamp()
        needs = [find_needs(history.before(start)) for history in self._shoppers.histories]
        usual = usual_intervals(needs, len(self._catalog.categories))
        return fit_intents(sessions, self.missions, usual, self._catalog.items_of, popularity, baskets, self._random)

    def _of_household(self, past: History, later: History) -> list[HeldOutSession]:
        """Returns a household's held-out sessions, each with all actions before it."""
        whole = join_histories([past, later])
        mission = self._main_mission(past)
        found = []
        for number in np.unique(later.session).tolist():
            rows = later.session == number
            starts = float(later.seconds[rows].min())
            items = np.unique(later.item[rows])
            season = self._demand_in[datetime.fromtimestamp(starts, UTC).month]
            category = self._catalog.category_of[items]
            found.append(HeldOutSession(whole.before(starts), mission, starts, items, category, season))
        return found

    def _main_mission(self, history: History) -> int:
        return self.missions.main(self.missions.mix(*history.session_categories()))


def _fit_missions(histories: Sequence[History], base: np.ndarray, random: np.random.Generator) -> Missions:
    return fit_missions(*join_histories(histories).session_categories(), base, random)


def _read_held_out(
    connection: Connection, reader: ArrowReader, catalog: Catalog, last_complete_journey: datetime | None
) -> _HeldOut:
    """Reads the weeks of The Complete Journey after the ingested ones; else the sessions that a snapshot holds out."""
    if last_complete_journey is not None:
        start = last_complete_journey + _INSTANT
        actions = _group_actions(_read_later_weeks(start), catalog)
        if sum(len(np.unique(history.session)) for history in actions.histories) >= _MIN_HELD_OUT_SESSIONS:
            return _HeldOut(start, actions)
    split = {"test_share": settings().test_share, "max_held_out_sessions": settings().max_held_out_sessions}
    start = connection.execute(statement("simulation/held_out_start"), split).scalar_one()
    rows = reader.read("simulation/held_out_actions", {"held_out_start": start})
    return _HeldOut(start, _group_actions(rows, catalog))


def _read_later_weeks(start: datetime) -> pa.Table:
    """Reads purchases of The Complete Journey that are not in the warehouse."""
    from recsys_tasks.ingestion.complete_journey import read_complete_journey  # imports pandas

    batches = read_complete_journey(Interval(start, start + _LATER_WEEKS))[1:]
    names = ("user_id", "item_id", "session_id", "event_time")
    if not batches:
        return pa.table({name: pa.array([], pa.string()) for name in names}).append_column(
            "seconds", pa.array([], pa.float64())
        )
    rows = pa.Table.from_batches(list(batches[0].rows["events"]))
    rows = rows.filter(pc.not_equal(rows["quantity"], "0"))
    nanoseconds = rows["event_time"].cast(pa.timestamp("ns", "UTC")).cast(pa.int64())
    rows = rows.select(list(names)).append_column("seconds", pc.divide(nanoseconds, 10**9).cast(pa.float64()))
    return rows.sort_by([("user_id", "ascending"), ("seconds", "ascending"), ("session_id", "ascending")])


def _group_actions(rows: pa.Table, catalog: Catalog) -> _Actions:
    """Groups rows, sorted by user and time, by user; leaves out items that are not in the catalog."""
    item = pc.index_in(rows["item_id"], value_set=pa.array(catalog.number_of, pa.string()))
    rows, item = rows.filter(pc.is_valid(item)), pc.drop_null(item).to_numpy().astype(np.int64)
    user = _codes(rows["user_id"])
    session = _codes(pc.binary_join_element_wise(rows["user_id"], rows["session_id"], "\x1f"))
    seconds = rows["seconds"].to_numpy()
    edges = np.flatnonzero(np.diff(user, prepend=-1))
    users = rows["user_id"].take(pa.array(edges)).to_pylist()
    histories = [
        History(
            item[start:end],
            catalog.category_of[item[start:end]],
            session[start:end] - session[start],
            seconds[start:end],
        )
        for start, end in zip(edges, [*edges[1:], len(user)], strict=True)
    ]
    return _Actions(users, histories)


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers of a column's values, by first appearance."""
    codes: np.ndarray = column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)


def _read_popularity(reader: ArrowReader, catalog: Catalog, until: datetime) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of actions on each item in the four weeks before a time, and of all before it, each [I]."""
    rows = reader.read("simulation/popularity", {"until": until})
    number = pc.index_in(rows["item_id"], value_set=pa.array(catalog.number_of, pa.string())).to_numpy()
    lately, ever = np.zeros(len(catalog.items)), np.zeros(len(catalog.items))
    lately[number], ever[number] = rows["lately"].to_numpy(), rows["ever"].to_numpy()
    return lately, ever


def _shopper(user_id: str, history: History, real: History, items: Sequence[Item]) -> Shopper:
    prices = sorted(items[number].price for number in set(real.item.tolist()))
    return Shopper(user_id, history, prices[len(prices) * 9 // 10], float(len(np.unique(real.session))))


def _read_seasons(reader: ArrowReader) -> dict[str, dict[int, float]]:
    """Returns the demand of each category in each month relative to its mean, smoothed towards 1."""
    months: defaultdict[str, dict[int, float]] = defaultdict(dict)
    of_month: defaultdict[int, float] = defaultdict(float)
    for category, month, taken in _rows(reader, "simulation/seasons", "category_path month taken"):
        months[category][month] = float(taken)
        of_month[month] += float(taken)
    everything = sum(of_month.values())
    found = {}
    for category, counts in months.items():
        usual = sum(counts.values()) / everything
        found[category] = {
            month: (count + _SEASON_SMOOTHING_EVENTS) / (usual * of_month[month] + _SEASON_SMOOTHING_EVENTS)
            for month, count in counts.items()
        }
    return found


def _rows(reader: ArrowReader, name: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """Yields the rows of a query without parameters."""
    table = reader.read(name, {})
    yield from zip(*(table[column].to_pylist() for column in columns.split()), strict=True)
