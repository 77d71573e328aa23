"""A shared folder: on this machine, in an S3 bucket, or in a store that fsspec knows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from recsys_tasks.errors import ConfigurationError, UnavailableError
from recsys_tasks.storage.folder import Folder
from tests.integration.s3 import KEYS

_CHARACTERS = st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="/\\")
_NAMES = st.text(_CHARACTERS, min_size=1, max_size=20)


@pytest.fixture(params=["path", "s3", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder."""
    if request.param == "s3":
        request.getfixturevalue("bucket")
        return Folder.of("s3://shop/files")
    return Folder.of(tmp_path / "files" if request.param == "path" else f"memory://{tmp_path.name}")


def test_what_was_written_is_read_and_listed(folder: Folder) -> None:
    assert (folder.names(), folder.exists("a.json")) == ([], False)
    folder.write("b.json", b"first")
    folder.write("a.json", b"")
    folder.write("below/c.json", b"c")
    folder.write("b.json", b"second")
    assert folder.read("b.json") == b"second"
    assert folder.read("a.json") == b""
    assert folder.names(".json") == ["a.json", "b.json"]
    assert folder.names(".json", recursive=True) == ["a.json", "b.json", "below/c.json"]
    assert (folder / "below").names() == ["c.json"]
    assert folder.exists("a.json")
    assert not folder.exists("below")
    assert set(folder.modified(".json")) <= {"a.json", "b.json"}


def test_a_removed_file_is_gone_and_may_be_removed_again(folder: Folder) -> None:
    file = folder.file("a")
    file.write(b"x")
    file.remove()
    file.remove()
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        file.read()
    with pytest.raises(FileNotFoundError):
        folder.read_table("a")


def test_tables_have_names_by_their_content(folder: Folder) -> None:
    first, second = pa.table({"item": ["a", "b"], "n": [1, 2]}), pa.table({"item": ["c"], "n": [3]})
    names = [folder.write_table("items", table) for table in (first, second, first)]
    assert names[0] == names[2] != names[1]
    assert folder.names() == sorted(set(names))
    assert folder.read_table(names[0], ["n"]) == first.select(["n"])
    both = folder.read_tables(names[:2], ["item", "unknown"], ["item"])
    assert both["item"].to_pylist() == ["a", "b", "c"]
    assert pa.types.is_dictionary(both["item"].type)


def test_a_write_that_fails_leaves_the_earlier_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.of(tmp_path)
    folder.write("a", b"earlier")
    monkeypatch.setattr("recsys_tasks.storage.folder._write_stream", _write_a_part)
    with pytest.raises(OSError, match="disk full"):
        folder.write("a", b"later")
    assert folder.read("a") == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def _write_a_part(store: fs.FileSystem, path: str, content: bytes) -> None:
    with store.open_output_stream(path) as stream:
        stream.write(content[:2])
    raise OSError("disk full")


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=_NAMES.filter(lambda name: name.strip(". ") == name), content=st.binary(max_size=200))
def test_any_name_and_content_comes_back(tmp_path: Path, name: str, content: bytes) -> None:
    folder = Folder.of(tmp_path)
    folder.write(name, content)
    assert folder.read(name) == content
    assert name in folder.names()
    folder.remove(name)


def test_a_path_is_made_absolute_and_a_file_address_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Folder.of("files").local_path == tmp_path / "files"
    assert Folder.of(f"file://{tmp_path}/files/").local_path == tmp_path / "files"
    assert Folder.of("s3://shop/a/").local_path is None


def test_a_store_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("recsys_tasks.storage.addresses._ATTEMPTS", 1)
    with pytest.raises(UnavailableError, match="s3://shop/files does not answer"):
        Folder.of("s3://shop/files").read("a")


@pytest.mark.usefixtures("bucket")
def test_wrong_credentials_are_an_error_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.of("s3://shop/files")
    with monkeypatch.context() as changed:
        changed.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(ConfigurationError, match="s3://shop/files cannot be used"):
            folder.write("a", b"x")


def test_credentials_in_an_address_are_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Folder.of("s3://me:hidden@shop/files")
    assert "hidden" not in str(refused.value)


@pytest.fixture
def busy_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An S3 server whose first answers to each request are errors 503; the requests it had."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.command)
            is_busy = requests.count(self.command) <= 2
            content = b"" if is_busy else b"content"
            self.send_response(503 if is_busy else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}.items():
        monkeypatch.setenv(name, value)
    yield requests
    server.shutdown()
    server.server_close()


def test_a_busy_store_is_asked_again(busy_store: list[str]) -> None:
    assert Folder.of("s3://shop/files").read("a") == b"content"
    assert busy_store.count("HEAD") == 3


@pytest.mark.parametrize(
    "address",
    [
        "https://shop.example/files",
        "s3://",
        "s3:/shop/files",
        "s3://shop/files?access_key=k&secret_key=hidden",
        "file://host/x",
    ],
)
def test_an_address_of_no_folder_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Folder.of(address)
    assert "hidden" not in str(refused.value)


def test_what_a_killed_process_left_is_not_listed_and_removed_once_it_is_old(tmp_path: Path) -> None:
    folder, now = Folder.of(tmp_path), datetime.now(UTC)
    folder.write("below/whole", b"x")
    (tmp_path / "below" / ".writing-1-part").write_bytes(b"part")
    assert folder.names(recursive=True) == ["below/whole"]
    assert folder.remove_unfinished(now - timedelta(days=1)) == 0
    assert folder.remove_unfinished(now + timedelta(days=1)) == 1
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["whole"]


@pytest.mark.parametrize("name", ["../secrets.json", "below/../../secrets.json", "/etc/passwd", "", "below/"])
def test_a_name_leads_nowhere_else(folder: Folder, name: str) -> None:
    with pytest.raises(ConfigurationError):
        folder.read(name)
    with pytest.raises(ConfigurationError):
        folder.write(name, b"x")
