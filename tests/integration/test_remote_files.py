"""Files in remote stores: an S3 server, and a web server; dates in paths; a remote landing folder."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs
from pydantic import ValidationError
from sqlalchemy import Engine, text

from recsys_tasks.errors import ConfigurationError, InputError, MalformedFile, UnavailableError
from recsys_tasks.ingestion import landing_folder
from recsys_tasks.ingestion.delivery import Delivery, expand_dates, find_delivered_files, require_delivered_files
from recsys_tasks.ingestion.landing import land_batches
from recsys_tasks.ingestion.mapping import load_mapping
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.interval import Interval
from recsys_tasks.steps.ingestion import find_missing_files
from tests.integration.ingesting import HEADER, csv_line, ingest, write_csv, write_mapping
from tests.integration.s3 import KEYS

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and folder of a web server."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()


class _QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder; paths with `unavailable` fail, as of a server in trouble."""

    def do_GET(self) -> None:
        if "unavailable" in self.path:
            self.send_error(500, explain=f"cannot serve http://{self.headers['Host']}{self.path}")
        else:
            super().do_GET()

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


def _put(bucket: fs.FileSystem, name: str, *numbers: int) -> None:
    bucket.create_dir(name.rpartition("/")[0], recursive=True)
    with bucket.open_output_stream(name) as file:
        file.write("\n".join([HEADER, *map(csv_line, numbers), ""]).encode())


def _days(count: int) -> Interval:
    return Interval(NOVEMBER, NOVEMBER + timedelta(days=count))


def test_files_of_an_s3_bucket_are_ingested_by_date_once(
    bucket: fs.FileSystem, warehouse: Engine, tmp_path: Path
) -> None:
    mapping = write_mapping(tmp_path)
    _put(bucket, "dt=2026-11-01/a.csv", 1, 2)
    _put(bucket, "dt=2026-11-01/b.csv", 3)
    _put(bucket, "dt=2026-11-02/a.csv", 4)
    _put(bucket, "dt=2026-11-03/a.csv", 5)
    template = "s3://shop/dt={date}/*.csv"
    files = require_delivered_files([template], _days(2))
    assert files == ["s3://shop/dt=2026-11-01/a.csv", "s3://shop/dt=2026-11-01/b.csv", "s3://shop/dt=2026-11-02/a.csv"]
    reports = ingest(warehouse, tmp_path, mapping, *files)
    assert sum(report.inserted for report in reports) == 4
    again = ingest(warehouse, tmp_path, mapping, *require_delivered_files([template], _days(3)))
    assert sum(report.inserted for report in again if not report.already_loaded) == 1
    with warehouse.connect() as connection:
        origins = connection.scalars(text("select origin from batches order by origin")).all()
    assert origins == [*files, "s3://shop/dt=2026-11-03/a.csv"]


def test_a_remote_landing_folder_is_listed_as_a_local_one(
    bucket: fs.FileSystem, warehouse: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bucket.open_output_stream("landing/shop/mapping.toml") as file:
        file.write(Path(write_mapping(tmp_path)).read_bytes())
    _put(bucket, "landing/shop/dt=2026-11-01/a.csv", 1, 2)
    _put(bucket, "landing/shop/_SUCCESS")
    _put(bucket, "landing/shop/README.md")
    address = "s3://shop/landing"
    assert landing_folder.find_new_files(warehouse, address) == []  # modified too recently
    monkeypatch.setattr(landing_folder, "_MIN_FILE_AGE_SECONDS", -1.0)
    (found,) = landing_folder.find_new_files(warehouse, address)
    assert found.path == f"{address}/shop/dt=2026-11-01/a.csv"
    assert found.source == f"{address}/shop/mapping.toml"
    reports = ingest(warehouse, tmp_path, found.source, found.path)
    assert [report.inserted for report in reports] == [2]
    landing_folder.record_landed_file(warehouse, found, [report.batch_id for report in reports])
    assert landing_folder.find_new_files(warehouse, address) == []
    assert list(landing_folder.find_skipped_files(address)) == [f"{address}/shop/README.md"]


def test_files_of_a_web_server_are_read_and_errors_name_the_address(
    web_server: tuple[str, Path], warehouse: Engine, tmp_path: Path
) -> None:
    address, folder = web_server
    write_csv(folder / "2026-11-01.csv", [csv_line(1)])
    mapping = write_mapping(tmp_path, on_error="reject")
    (report,) = ingest(warehouse, tmp_path, mapping, f"{address}/2026-11-01.csv")
    assert report.inserted == 1
    write_csv(folder / "broken.csv", ['"1'])
    with pytest.raises(MalformedFile, match=f"^{address}/broken.csv, line 2"):
        land_batches(warehouse, read_source(mapping, [f"{address}/broken.csv"]))
    assert find_delivered_files([f"{address}/none.csv"]) == ([], [f"{address}/none.csv"])


def test_an_unreachable_store_raises_unavailable_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1:1/a\.csv cannot be read"):
        next(read_source(write_mapping(tmp_path), ["http://127.0.0.1:1/a.csv"]))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("sftp://shop:hunter2@files.example/a.csv", "contains credentials"),
        ("nowhere://a.csv", "Protocol not known"),
        ("https://token@files.example/a.csv", "contains credentials"),
        ("sftp://shop:hun/hunter2@files.example/a.csv", "contains credentials"),
        ("simplecache::https://shop:hunter2@files.example/a.csv", "chain of addresses"),
        ("abfs://a/b.csv", "AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(address: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refusal:
        find_delivered_files([address])
    assert "hunter2" not in str(refusal.value)
    assert "token" not in str(refusal.value)


def test_a_delivery_with_credentials_in_its_address_is_refused() -> None:
    with pytest.raises(ValidationError, match="contains credentials") as refusal:
        Delivery(path="sftp://shop:hunter2@files.example/{date}.csv")
    assert "hunter2" not in refusal.value.errors()[0]["msg"]


def test_signatures_of_web_addresses_are_in_no_origin_and_no_message(
    web_server: tuple[str, Path], warehouse: Engine, tmp_path: Path
) -> None:
    address, folder = web_server
    write_csv(folder / "a.csv", [csv_line(1)])
    ingest(warehouse, tmp_path, write_mapping(tmp_path), f"{address}/a.csv?sig=hunter2")
    with warehouse.connect() as connection:
        assert connection.scalar(text("select origin from batches")) == f"{address}/a.csv"
    assert find_delivered_files([f"{address}/b.csv?sig=hunter2"])[1] == [f"{address}/b.csv"]
    for failing in ("http://127.0.0.1:1/a.csv?sig=a%2Fhunter2", f"{address}/unavailable.csv?sig=a%2Fhunter2"):
        with pytest.raises(UnavailableError) as failure:
            find_delivered_files([failing])
        assert "hunter2" not in "".join(traceback.format_exception(failure.value))
    with pytest.raises(ConfigurationError, match=r"both \* and a query") as refusal:
        find_delivered_files([f"{address}/*.csv?sig=hunter2"])
    assert "hunter2" not in str(refusal.value)


def test_a_folder_that_cannot_be_listed_is_no_empty_one(web_server: tuple[str, Path]) -> None:
    address, folder = web_server
    for name in ("shop/a", "shop/b"):
        (folder / name).mkdir(parents=True)
        write_csv(folder / name / "x.csv", [])
    assert find_delivered_files([f"{address}/shop/*/x.csv"])[0] == [
        f"{address}/shop/a/x.csv",
        f"{address}/shop/b/x.csv",
    ]
    (folder / "shop/unavailable").mkdir()
    with pytest.raises(UnavailableError):
        find_delivered_files([f"{address}/shop/*/x.csv"])


def test_an_unreachable_store_is_no_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    for find in (
        lambda: find_delivered_files(["s3://shop/*.csv"]),
        lambda: landing_folder.find_skipped_files("s3://shop/a"),
    ):
        with pytest.raises(UnavailableError, match="s3://shop"):
            find()


def test_only_the_star_is_a_wildcard_and_unfinished_files_do_not_match(bucket: fs.FileSystem, tmp_path: Path) -> None:
    for name in ("[eu]?#1.csv", "[eu]?#2.csv.part", "_SUCCESS", ".hidden.csv"):
        _put(bucket, f"in/{name}", 1)
        write_csv(tmp_path / name, [])
    assert find_delivered_files(["s3://shop/*/_SUCCESS"])[0] == ["s3://shop/in/_SUCCESS"]  # spelled out
    assert find_delivered_files(["s3://shop/in/*"])[0] == ["s3://shop/in/[eu]?#1.csv"]
    assert find_delivered_files([f"{tmp_path}/[eu]?*"])[0] == [f"{tmp_path}/[eu]?#1.csv"]


def test_a_delivery_is_complete_when_its_marker_is_there(tmp_path: Path) -> None:
    delivery = Delivery(path=f"{tmp_path}/{{date}}.csv", marker=f"{tmp_path}/{{date}}.done")
    write_csv(tmp_path / "2026-11-01.csv", [])
    assert find_missing_files(delivery, _days(1)) == [f"{tmp_path}/2026-11-01.done"]
    (tmp_path / "2026-11-01.done").touch()
    assert find_missing_files(delivery, _days(1)) == []


def test_local_paths_have_dates_and_wildcards_too(tmp_path: Path) -> None:
    (tmp_path / "2026/11").mkdir(parents=True)
    paths = [str(write_csv(tmp_path / f"2026/11/{name}.csv", [])) for name in ("01-a", "01-b", "02-a")]
    template = f"{tmp_path}/{{date:%Y/%m/%d}}-*.csv"
    assert find_delivered_files([template], _days(3)) == (paths, [f"{tmp_path}/2026/11/03-*.csv"])
    with pytest.raises(InputError, match=r"no file at .*2026/11/03"):
        require_delivered_files([template], _days(3))
    with pytest.raises(ConfigurationError, match="--from and --to"):
        require_delivered_files([template])


@pytest.mark.parametrize("template", ["a/{day}.csv", "a/{date.year}.csv", "a/{}.csv"])
def test_unknown_fields_are_refused(template: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is unknown"):
        expand_dates(template, _days(1))
    mapping = Path(write_mapping(tmp_path))
    with mapping.open("a", encoding="utf-8") as file:
        file.write(f'\n[delivery]\npath = "{template}"\n')
    with pytest.raises(ConfigurationError, match="is unknown"):
        load_mapping(str(mapping))


def test_a_delivery_needs_a_date(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no \{date\}"):
        Delivery(path="a/*.csv")


@given(
    hours=st.lists(st.integers(0, 24 * 40), min_size=3, max_size=3, unique=True).map(sorted),
    template=st.sampled_from(["{date}", "{date:%Y%m%d-%H}", "{date:%j}T{date:%X}", "{date:%d.%m.%Y}"]),
)
def test_adjacent_intervals_share_no_date_and_cover_what_their_union_covers(hours: list[int], template: str) -> None:
    start, middle, end = (NOVEMBER + timedelta(hours=number) for number in hours)
    first, second = (expand_dates(template, interval) for interval in (Interval(start, middle), Interval(middle, end)))
    assert not set(first) & set(second)
    assert first + second == expand_dates(template, Interval(start, end))


def test_where_no_date_ends_there_is_nothing_to_wait_for_but_a_person_is_told(tmp_path: Path) -> None:
    hour = Interval(NOVEMBER + timedelta(hours=3), NOVEMBER + timedelta(hours=4))
    assert find_delivered_files([f"{tmp_path}/{{date}}.csv"], hour) == ([], [])
    with pytest.raises(InputError, match="No date of"):
        require_delivered_files([f"{tmp_path}/{{date}}.csv"], hour)


def test_a_run_after_midnight_loads_the_day_that_ended_and_no_other() -> None:
    run = Interval(NOVEMBER + timedelta(hours=3), NOVEMBER + timedelta(days=1, hours=3))
    assert expand_dates("{date}", run) == ["2026-11-01"]
    assert expand_dates("{date:%Y/%m}", Interval(NOVEMBER, NOVEMBER + timedelta(days=35))) == ["2026/11", "2026/12"]
