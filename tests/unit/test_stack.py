import socket
import stat
from pathlib import Path

import pytest

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.stack.environment import choose_ports, find_free_port, load_ports, load_secrets, save_ports


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
