import socket
import stat
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.interval import Interval
from recsys_tasks.stack.environment import choose_ports, find_free_port, load_ports, load_secrets, save_ports
from recsys_tasks.stack.live_view import LiveView
from recsys_tasks.stack.starter import last_whole_week


def test_a_configured_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        monkeypatch.setenv("RECSYS_PORT_MLFLOW", str(busy.getsockname()[1]))
        with pytest.raises(ConfigurationError, match=r"RECSYS_PORT_MLFLOW=\d+: the port is in use"):
            choose_ports()


def test_no_two_services_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    port = find_free_port()
    monkeypatch.setenv("RECSYS_PORT_MLFLOW", str(port))
    monkeypatch.setenv("RECSYS_PORT_AIRFLOW", str(port))
    with pytest.raises(ConfigurationError, match="another service has that port"):
        choose_ports()


@pytest.mark.parametrize("value", ["0", "65536", "http", "-1"])
def test_an_invalid_port_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RECSYS_PORT_ENDPOINT", value)
    with pytest.raises(ConfigurationError, match="not a port"):
        choose_ports()


def test_secrets_are_created_once_and_readable_by_the_owner_only(tmp_path: Path) -> None:
    first = load_secrets(tmp_path)
    assert load_secrets(tmp_path) == first
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600


def test_ports_of_the_latest_stack_are_found_again(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"No stack has run in .* Start one with `make run`"):
        load_ports(tmp_path)
    ports = choose_ports()
    save_ports(tmp_path, ports)
    assert load_ports(tmp_path) == ports


@pytest.mark.parametrize(
    "until",
    [
        "2017-12-25T00:00:00+00:00",
        "2017-12-27T10:30:00+00:00",
        "2017-12-31T23:59:59+00:00",
        "2017-12-25T02:00:00+02:00",
    ],
)
def test_the_first_lists_need_the_week_that_the_last_scheduled_run_ingests(until: str) -> None:
    week = last_whole_week(datetime.fromisoformat(until))
    assert week == Interval(datetime(2017, 12, 18, tzinfo=UTC), datetime(2017, 12, 25, tzinfo=UTC))


def test_active_stages_are_shown_on_a_terminal_and_nothing_elsewhere() -> None:
    for is_terminal in (True, False):
        text = StringIO()
        with LiveView(Console(file=text, force_terminal=is_terminal, width=100), 2) as view:
            view.start_stage("train_model", 0.001)
            view.refresh()
            view.start_stage("collect_feedback")
            view.finish_stage("collect_feedback")
            view.finish_stage("never started")
            view.complete_phase()
        assert ("train_model" in text.getvalue()) == is_terminal
