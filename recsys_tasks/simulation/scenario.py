"""Simulation scenarios: TOML files with events that change the simulated world on some days.

name = "new trend"

[[events]]
type = "trend"
from_day = 2
strength = 0.5
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from recsys_tasks.errors import InputError

EventType = Literal["trend", "stock_out", "dying_category", "bots", "newcomers"]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
SCENARIOS = files("recsys_tasks.simulation") / "scenarios"


class ScenarioEvent(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Change of the simulated world over a range of days.

    Attributes:
        type: `trend`: a share `strength` of all purchase intents is for a few rarely taken items;
            `stock_out`: the `items` most popular items are sold out; `dying_category`: the demand for a category falls
            by a share `strength`; `bots`: `visitors` bots request and click without pause; `newcomers`: a share
            `strength` of the sessions is by users without history.
        from_day, until_day: first day, counted from 0, and the day after the last; no end by default.
        category: of the event; drawn at random by default.
        items: number of items.
    """

    type: EventType
    from_day: Annotated[int, msgspec.Meta(ge=0)] = 0
    until_day: int | None = None
    strength: Share = 0.5
    category: str | None = None
    items: Annotated[int, msgspec.Meta(ge=1)] = 5
    visitors: Annotated[int, msgspec.Meta(ge=1)] = 3

    def is_active(self, day: int) -> bool:
        """Whether the event is active on a day."""
        return self.from_day <= day and (self.until_day is None or day < self.until_day)


class Scenario(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Named list of events."""

    name: str
    events: list[ScenarioEvent] = []

    def active_events(self, day: int, type: EventType) -> list[tuple[int, ScenarioEvent]]:
        """Returns the events of a type that are active on a day, each with its index in the scenario."""
        return [(n, event) for n, event in enumerate(self.events) if event.type == type and event.is_active(day)]


QUIET = Scenario("quiet")


def scenario_names() -> list[str]:
    """Returns the names of the scenarios in the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in SCENARIOS.iterdir() if entry.name.endswith(".toml"))


def read_scenario(name: str) -> Scenario:
    """Loads a scenario by its name in the package, or from a file.

    Raises:
        InputError: it does not exist or is invalid; names the place.
    """
    try:
        inside = SCENARIOS / f"{name}.toml"
        text = inside.read_text(encoding="utf-8") if inside.is_file() else Path(name).read_text(encoding="utf-8")
        return msgspec.convert(tomllib.loads(text), Scenario)
    except OSError as error:
        known = ", ".join(scenario_names())
        raise InputError(f"There is no scenario {name!r}. Use a file, or one of {known}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"Scenario {name} is invalid: {error}") from error
