"""What happens in the world of simulated shoppers, in a small language, one file for each scenario.

name = "new trend"

[[happens]]
what = "trend"
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

Kind = Literal["trend", "stock_out", "dying_category", "bots", "newcomers"]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
SCENARIOS = files("recsys_tasks.simulation") / "scenarios"


class Happening(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One thing that is different on some days.

    Attributes:
        what: `trend`: of all wishes, a share of `strength` is for a few items that few knew before;
            `stock_out`: the `items` most taken things cannot be had; `dying_category`: of the wishes for a category,
            a share of `strength` is gone; `bots`: `visitors` machines ask and click without end; `newcomers`: a share
            of `strength` of the sessions is of people whom nobody has seen before.
        from_day, until_day: from which day on, counted from 0, and before which one; without an end, for ever.
        category: which; by default one that is drawn.
        items: how many of them.
    """

    what: Kind
    from_day: Annotated[int, msgspec.Meta(ge=0)] = 0
    until_day: int | None = None
    strength: Share = 0.5
    category: str | None = None
    items: Annotated[int, msgspec.Meta(ge=1)] = 5
    visitors: Annotated[int, msgspec.Meta(ge=1)] = 3

    def on(self, day: int) -> bool:
        """Whether it is so on a day."""
        return self.from_day <= day and (self.until_day is None or day < self.until_day)


class Scenario(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All that happens."""

    name: str
    happens: list[Happening] = []

    def on(self, day: int, what: Kind) -> list[tuple[int, Happening]]:
        """What of a kind happens on a day, with its number in the scenario."""
        return [
            (n, happening) for n, happening in enumerate(self.happens) if happening.what == what and happening.on(day)
        ]


QUIET = Scenario("quiet")


def scenario_names() -> list[str]:
    """Those that come with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in SCENARIOS.iterdir() if entry.name.endswith(".toml"))


def read_scenario(name: str) -> Scenario:
    """A scenario of the package by its name, or one in a file.

    Raises:
        InputError: there is none, or it is not what it should be; says where.
    """
    try:
        inside = SCENARIOS / f"{name}.toml"
        text = inside.read_text(encoding="utf-8") if inside.is_file() else Path(name).read_text(encoding="utf-8")
        return msgspec.convert(tomllib.loads(text), Scenario)
    except OSError as error:
        known = ", ".join(scenario_names())
        raise InputError(f"There is no scenario {name!r}: give a file, or one of {known}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"The scenario {name} cannot be used: {error}") from error
