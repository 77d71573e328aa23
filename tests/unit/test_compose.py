"""Consistency of docker-compose.yml, without a container engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_every_long_running_service_has_a_health_check() -> None:
    long_running = [name for name, service in SERVICES.items() if service.get("restart") != "no"]
    assert all("healthcheck" in SERVICES[name] for name in long_running)


def test_every_dependency_exists_and_has_a_ready_condition() -> None:
    for service in SERVICES.values():
        for name, dependency in service.get("depends_on", {}).items():
            ready = "healthcheck" in SERVICES[name] or dependency["condition"] == "service_completed_successfully"
            assert ready


def test_every_volume_and_secret_is_declared() -> None:
    for service in SERVICES.values():
        named = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert {name for name in named if not name.startswith(("./", "/"))} <= set(COMPOSE["volumes"])
        assert all((ROOT / name).is_dir() for name in named if name.startswith("./"))
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])


@pytest.mark.parametrize("word", ["PASSWORD", "TOKEN", "SECRET", "KEY"])
def test_no_secret_has_a_default(word: str) -> None:
    for name, rest in re.findall(rf"\$\{{(\w*{word}\w*)([^}}]*)\}}", TEXT):
        assert not rest or rest.startswith(":?"), f"{name} has the default {rest}"


def test_ports_are_bound_to_localhost_only() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_endpoint_image_installs_only_the_serving_extra() -> None:
    recipe = SERVICES["endpoint"]["build"]["dockerfile_inline"]
    assert "'.[serving,shared]'" in recipe
    assert "pipeline" not in recipe
