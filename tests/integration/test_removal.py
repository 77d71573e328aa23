"""Any sequence of loads, corrections, retractions and erasures leaves what the surviving files alone would leave."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from recsys_tasks.ingestion import removal, replay
from recsys_tasks.ingestion.landing import land_batches
from recsys_tasks.ingestion.load import LoadReport, load_batch
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.storage.folder import Folder
from recsys_tasks.validation import batch as validation
from tests.conftest import fresh_warehouse
from tests.integration.ingesting import LONG_AGO, count, csv_line, ingest, write_csv, write_mapping

_HISTORIES = int(os.environ.get("RECSYS_TEST_HISTORIES", "40"))
_MANY = settings(
    max_examples=_HISTORIES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
_START = datetime(2024, 7, 20, tzinfo=UTC)
_numbers = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def without_suites() -> Iterator[None]:
    """Expectation suites take most of the time of an ingestion, and judge whole batches, not rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "run_suite", lambda *_, **__: SimpleNamespace(warnings=[], problems=[]))
        yield


@pytest.fixture(scope="module")
def shared_warehouse(postgres: str) -> Iterator[Engine]:
    """A warehouse for all histories."""
    with fresh_warehouse(postgres) as engine:
        yield engine


@dataclass(frozen=True)
class Delivery:
    """One row of a file: an event of a user, by its number and a variant of its content."""

    event: int
    user: int
    variant: int

    def csv(self) -> str:
        """Returns the line of a CSV file."""
        return f"e{self.event},u{self.user},i{self.variant},view,{self._time():%Y-%m-%dT%H:%M:%SZ},{self.variant}"

    def row(self, prefix: str) -> tuple[str, str, str, str]:
        """Returns what the warehouse has of it."""
        return f"{prefix}e{self.event}", f"{prefix}u{self.user}", f"{prefix}i{self.variant}", str(self._time())

    def _time(self) -> datetime:
        return _START + timedelta(days=self.event + 9 * self.variant, hours=self.variant)  # in two months


@dataclass(frozen=True)
class Load:
    """Loads a file."""

    rows: list[Delivery]
    corrects: bool


@dataclass(frozen=True)
class Retract:
    """Retracts one of the batches loaded before."""

    choice: int


@dataclass(frozen=True)
class Forget:
    """Erases a user."""

    user: int


_DELIVERIES = st.builds(Delivery, event=st.integers(0, 2), user=st.integers(0, 1), variant=st.integers(0, 2))
_LOADS = st.builds(Load, rows=st.lists(_DELIVERIES, min_size=1, max_size=4), corrects=st.booleans())
_STEPS = st.one_of(_LOADS, _LOADS, st.builds(Retract, st.integers(0, 9)), st.builds(Forget, st.integers(0, 1)))


@dataclass
class Shop:
    """A source of its own for one history: as good as an empty warehouse, and faster."""

    warehouse: Engine
    folder: Path
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def prefix(self) -> str:
        """Prefix of all ids."""
        return f"h{self.number}-"

    def ingest(self, name: str, header: str, lines: Sequence[str], mapping: Sequence[str]) -> LoadReport:
        """Ingests lines as a new file; equal files are told apart by a column that nothing reads."""
        file, mapping_file = self.folder / f"{self.number}-{name}.csv", self.folder / "mapping.toml"
        file.write_text("\n".join([f"{header},file", *(f"{line},{name}" for line in lines), ""]), encoding="utf-8")
        keys = [
            f'source = "h{self.number}"',
            'format = "csv"',
            f'id_prefix = "{self.prefix}"',
            'ignore = ["file", "day"]',
        ]
        mapping_file.write_text("\n".join([*keys, *mapping]), encoding="utf-8")
        (batch_id,) = land_batches(self.warehouse, read_source(str(mapping_file), [file]))
        validation.validate_batch(
            self.warehouse, batch_id, Folder.of(self.folder), max_bad_share=1.0, retention_start=LONG_AGO
        )
        return load_batch(self.warehouse, batch_id)

    def read(self, query: str) -> list[tuple[str, ...]]:
        """Returns the sorted rows of a query about the ids of the shop, `:prefix`."""
        with self.warehouse.connect() as connection:
            found = connection.execute(text(query), {"prefix": f"{self.prefix}%"})
            return sorted(tuple(str(value) for value in row) for row in found)


def _expected(loads: Sequence[Load], prefix: str) -> list[tuple[str, ...]]:
    """The events that the files alone leave, loaded one after the other."""
    visible: dict[int, Delivery] = {}
    for load in loads:
        own: dict[int, Delivery] = {}
        for row in load.rows:
            own[row.event] = row if load.corrects else own.get(row.event, row)
        for event, row in own.items():
            visible[event] = row if load.corrects else visible.get(event, row)
    return sorted(row.row(prefix) for row in visible.values())


_EVENTS = """
select event_id, user_id, item_id, cast(event_time at time zone 'UTC' as text) || '+00:00'
from events where event_id like :prefix
"""
_MAPPING = ["implies_items = true", "implies_users = true", "[columns]", 'event_id = "id"', 'user_id = "who"']
_MAPPING += ['item_id = "what"', 'event_type = "did"', 'event_time = "when"', 'price = "price"']


@_MANY
@given(st.lists(_STEPS, min_size=2, max_size=7))
def test_events_are_those_of_the_surviving_files(
    shared_warehouse: Engine, steps: list[Load | Retract | Forget]
) -> None:
    loads: list[Load] = []
    reports: list[LoadReport] = []
    forgotten: set[int] = set()
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(shared_warehouse, Path(folder))
        for number, step in enumerate(steps):
            if isinstance(step, Load):
                conflict = f'on_conflict = "{"replace" if step.corrects else "keep"}"'
                lines = [row.csv() for row in step.rows]
                reports.append(shop.ingest(str(number), "id,who,what,did,when,price", lines, [conflict, *_MAPPING]))
                loads.append(Load([row for row in step.rows if row.user not in forgotten], step.corrects))
            elif isinstance(step, Retract) and loads:
                chosen = step.choice % len(loads)
                removal.retract(shared_warehouse, reports.pop(chosen).batch_id, "wrong")
                del loads[chosen]
            elif isinstance(step, Forget):
                forgotten.add(step.user)
                removal.forget(shared_warehouse, [f"{shop.prefix}u{step.user}"])
                loads = [Load([row for row in load.rows if row.user not in forgotten], load.corrects) for load in loads]
            assert shop.read(_EVENTS) == _expected(loads, shop.prefix)
        delivered = {f"{shop.prefix}u{row.user}" for load in loads for row in load.rows}
        assert delivered <= {row[0] for row in shop.read("select user_id from users where user_id like :prefix")}
        held = "select event_id from held_events where event_id like :prefix"
        assert len(shop.read(held)) + len(shop.read(_EVENTS)) == sum(len(load.rows) for load in loads)


@dataclass(frozen=True)
class ItemLoad:
    """Loads a file of items: title by item, valid from a day or (None) from its landing."""

    titles: dict[int, int]
    day: int | None


_ITEM_LOADS = st.builds(
    ItemLoad,
    titles=st.dictionaries(st.integers(0, 1), st.integers(0, 1), min_size=1),
    day=st.one_of(st.none(), st.integers(1, 3)),
)


def _versions(loads: Sequence[ItemLoad], item: int) -> list[int]:
    """Titles of the versions of an item, in the order of their times: a delivery that differs from the one before."""
    delivered = [(load.day, load.titles[item]) for load in loads if item in load.titles]
    timed = [
        (-1 if day is None and number == 0 else 100 + number if day is None else day, number, title)
        for number, (day, title) in enumerate(delivered)
    ]
    titles = [title for _, _, title in sorted(timed)]
    return [title for number, title in enumerate(titles) if number == 0 or title != titles[number - 1]]


@_MANY
@given(st.lists(st.one_of(_ITEM_LOADS, _ITEM_LOADS, st.builds(Retract, st.integers(0, 9))), min_size=2, max_size=7))
def test_item_versions_are_those_of_the_surviving_files(
    shared_warehouse: Engine, steps: list[ItemLoad | Retract]
) -> None:
    loads: list[ItemLoad] = []
    reports: list[LoadReport] = []
    columns = ['kind = "items"', "[columns]", 'item_id = "id"', 'title = "title"']
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(shared_warehouse, Path(folder))
        for number, step in enumerate(steps):
            if isinstance(step, ItemLoad):
                dated = [] if step.day is None else ['valid_from = "day"']
                lines = [f"i{item},t{title},2024-01-0{step.day or 1}" for item, title in step.titles.items()]
                reports.append(shop.ingest(str(number), "id,title,day", lines, [*columns, *dated]))
                loads.append(step)
            elif loads:
                chosen = step.choice % len(loads)
                removal.retract(shared_warehouse, reports.pop(chosen).batch_id, "wrong")
                del loads[chosen]
            for item in (0, 1):
                query = f"select title from item_versions where item_id = '{shop.prefix}i{item}'"
                with shared_warehouse.connect() as connection:
                    stored = list(connection.scalars(text(f"{query} order by valid_from, batch")))
                assert stored == [f"t{title}" for title in _versions(loads, item)]
            current = {
                item: title for item, title in shop.read("select item_id, title from items where item_id like :prefix")
            }
            expected = {item: _versions(loads, item) for item in (0, 1)}
            assert current == {f"{shop.prefix}i{item}": f"t{found[-1]}" for item, found in expected.items() if found}


def test_a_retracted_batch_takes_only_what_no_other_holds(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path)
    (first,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "a.csv", [csv_line(1), csv_line(2)]))
    second_file = write_csv(tmp_path / "b.csv", [csv_line(2), csv_line(3)])
    (second,) = ingest(warehouse, tmp_path, source, second_file)
    assert (second.inserted, second.duplicates) == (1, 1)
    removed = removal.retract(warehouse, first.batch_id, "a test")
    assert removed == removal.RemovalReport(events=2, restored=1, days=2)
    assert count(warehouse, "select count(*) from events where event_id in ('e2', 'e3')") == 2
    assert count(warehouse, "select count(*) from items where item_id in ('i2', 'i3')") == 2
    assert count(warehouse, "select count(*) from items where item_id = 'i1'") == 0
    assert count(warehouse, f"select inserted_rows from batches where batch_id = '{second.batch_id}'") == 2
    assert count(warehouse, "select sum(events) from batch_days") == 2
    (again,) = ingest(warehouse, tmp_path, source, second_file)
    assert (again.already_loaded, again.duplicates) == (True, 2)


def test_a_replaced_original_comes_back_and_a_conflict_is_resolved(warehouse: Engine, tmp_path: Path) -> None:
    keep, replace = write_mapping(tmp_path), tmp_path / "replace.toml"
    replace.write_text(f'on_conflict = "replace"\n{Path(keep).read_text(encoding="utf-8")}', encoding="utf-8")
    (first,) = ingest(warehouse, tmp_path, keep, write_csv(tmp_path / "a.csv", [csv_line(1, price="1")]))
    (second,) = ingest(warehouse, tmp_path, str(replace), write_csv(tmp_path / "b.csv", [csv_line(1, price="2")]))
    (third,) = ingest(warehouse, tmp_path, keep, write_csv(tmp_path / "c.csv", [csv_line(1, price="3")]), bad=1.0)
    assert third.conflicts == 1
    price = "select max(price) from events"
    assert count(warehouse, price) == 2
    removal.retract(warehouse, second.batch_id, "a test")
    assert count(warehouse, price) == 1
    removal.retract(warehouse, first.batch_id, "a test")
    assert count(warehouse, price) == 3
    assert count(warehouse, "select count(*) from quarantine where resolved_at is null") == 0


def test_a_replayed_conflict_stays_hidden_until_its_replay_is_retracted(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path)
    (first,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "a.csv", [csv_line(1, price="1")]))
    ingest(warehouse, tmp_path, source, write_csv(tmp_path / "b.csv", [csv_line(1, price="2")]), bad=1.0)
    with warehouse.begin() as connection:
        connection.execute(text("""update quarantine set raw = raw || '{"event_id": "e1b"}'"""))
    (replayed,) = replay.build_replay_batches(warehouse)
    (batch_id,) = land_batches(warehouse, [replayed.batch])
    validation.validate_batch(warehouse, batch_id, Folder.of(tmp_path), max_bad_share=1.0, retention_start=LONG_AGO)
    load_batch(warehouse, batch_id)
    replay.mark_resolved(warehouse, replayed)
    removal.retract(warehouse, first.batch_id, "a test")
    ids = "select count(*) from events where event_id = '{}'"
    assert [count(warehouse, ids.format(event_id)) for event_id in ("e1", "e1b")] == [0, 1]
    assert removal.retract(warehouse, batch_id, "a test").restored == 1
    assert [count(warehouse, ids.format(event_id)) for event_id in ("e1", "e1b")] == [1, 0]


def test_revisions_in_a_file_of_corrections_are_no_reason_to_reject_it(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path, on_conflict="replace")
    revisions = [csv_line(1, price=str(price)) for price in range(1, 6)]
    (report,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "a.csv", revisions), bad=0.2)
    assert (report.inserted, report.conflicts) == (1, 4)
    assert count(warehouse, "select max(price) from events") == 5
