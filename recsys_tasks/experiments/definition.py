"""Experiments at the endpoint: which visitors get whose lists, in a TOML file.

name = "is the model worth it"

[[arms]]
name = "model"
share = 0.8

[[arms]]
name = "popularity"
share = 0.1
answers = "popularity"

[[arms]]
name = "side by side"
share = 0.1
against = "neighbours"           # one list of both, drawn in turns
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from recsys_tasks.engine.engine import MODEL, Answer, Method
from recsys_tasks.engine.items import Recommendation
from recsys_tasks.errors import InputError

PREVIOUS: Final = "previous"
Answers = Literal["model", "popularity", "neighbours", "previous"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=60)]


class Arm(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a share of the visitors gets.

    Attributes:
        answers: the model that serves, the one that served before it (where there is none, the one that serves), what
            is popular, or what is like the items that the visitor looked at last.
        against: the list is one of both, each of whose places belongs to one of the two.
    """

    name: Name
    share: Annotated[float, msgspec.Meta(gt=0, le=1)]
    answers: Answers = MODEL
    against: Method | None = None


class Experiment(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arms that all visitors are divided into, the same ones at every endpoint and every time."""

    name: Name
    arms: Annotated[list[Arm], msgspec.Meta(min_length=2, max_length=20)]

    def arm_of(self, visitor: str) -> Arm:
        """The arm of a user, or of a session of nobody."""
        digest = hashlib.blake2b(f"{self.name} {visitor}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest) / 2**64
        for arm in self.arms:
            place -= arm.share
            if place < 0:
                return arm
        return self.arms[-1]  # shares of one in all may be a rounding error less

    def answering(self, answers: Answers) -> list[Arm]:
        """The arms whose lists are made in one way alone, not two in one."""
        return [arm for arm in self.arms if arm.answers == answers and arm.against is None]

    @property
    def wants_previous(self) -> bool:
        """Whether the model that served before has to be at hand."""
        return any(arm.answers == PREVIOUS for arm in self.arms)


class Interleaved(NamedTuple):
    """One list of two, and for each item whose it is."""

    answer: Answer
    teams: list[str]


def read_experiment(path: Path | None) -> Experiment | None:
    """The experiment in a file; none without one.

    Raises:
        InputError: the file cannot be read, or is not what it should be; says where.
    """
    if path is None:
        return None
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Experiment)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"The experiment in {path} cannot be used: {error}") from error
    problem = _problem(found)
    if problem:
        raise InputError(f"The experiment in {path} cannot be used: {problem}")
    return found


def _problem(experiment: Experiment) -> str | None:
    total = sum(arm.share for arm in experiment.arms)
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        return f"the shares of the arms sum to {total:g}, not to 1"
    names = sorted(arm.name for arm in experiment.arms)
    twice = next((one for one, other in pairwise(names) if one == other), None)
    if twice is not None:
        return f"two arms are called {twice!r}"
    alone = next((arm.name for arm in experiment.arms if arm.answers == arm.against), None)
    return None if alone is None else f"the arm {alone!r} is against itself"


def interleave(one: tuple[str, Answer], other: tuple[str, Answer], k: int, seed: str) -> Interleaved:
    """Team-draft interleaving (Radlinski, Kurup and Joachims 2008): in each round both, in an order that is drawn, put
    down the best of their items that is not there yet.

    Args:
        one, other: whose list it is, and the list.
        k: how many items, at most.
        seed: the same seed draws the same order.
    """
    random = Random(seed)  # noqa: S311
    left = {name: list(answer.items) for name, answer in (one, other)}
    items: list[Recommendation] = []
    teams: list[str] = []
    there: set[str] = set()
    while len(items) < k and any(left.values()):
        for name in random.sample(sorted(left), len(left)):
            best = _take(left[name], there)
            if best is not None and len(items) < k:
                items.append(best)
                teams.append(name)
    return Interleaved(one[1]._replace(items=items, propensities=None), teams)


def _take(left: list[Recommendation], there: set[str]) -> Recommendation | None:
    while left:
        item = left.pop(0)
        if item.item_id not in there:
            there.add(item.item_id)
            return item
    return None
