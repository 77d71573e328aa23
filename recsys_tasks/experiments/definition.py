"""Online experiments: arms, deterministic assignment of visitors, and team-draft interleaving. Read from a TOML file:

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
against = "neighbours"           # interleaved lists of the model and of nearest neighbors

[holdout]                        # optional: the same visitors in every experiment
share = 0.02
answers = "popularity"
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
from recsys_tasks.errors import InputError
from recsys_tasks.wire.items import Recommendation

PREVIOUS: Final = "previous"
HOLDOUT: Final = "holdout"  # arm of its visitors, and salt of their assignment: the same in every experiment
LONG_TERM_HOLDOUT: Final = "long-term holdout"  # the result over all experiments
PolicyName = Literal["model", "popularity", "neighbours", "personal_frequency", "previous"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=60)]


class Arm(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An arm of an experiment.

    Attributes:
        share: share of the visitors assigned to the arm.
        answers: the policy that makes the lists: the deployed model, popularity, the visitor's most frequent items,
            nearest neighbors of the visitor's latest items, or the previous version (the deployed one where there is
            none).
        against: a second policy, whose lists are interleaved with those of `answers`.
    """

    name: Name
    share: Annotated[float, msgspec.Meta(gt=0, le=1)]
    answers: PolicyName = MODEL
    against: Method | None = None


class Holdout(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The long-term holdout: visitors who get another policy's recommendations, in whatever experiment runs.

    Attributes:
        share: share of all visitors. Those of a smaller share are among those of a larger one.
        answers: the policy that makes their lists.
    """

    share: Annotated[float, msgspec.Meta(gt=0, le=0.5)]
    answers: Literal["popularity", "neighbours", "personal_frequency"] = "popularity"


class Experiment(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An experiment over all visitors; every endpoint makes the same assignments."""

    name: Name
    arms: Annotated[list[Arm], msgspec.Meta(min_length=2, max_length=20)]
    holdout: Holdout | None = None

    def assign_arm(self, visitor: str) -> Arm:
        """Returns the arm of a visitor: a user, or an anonymous session."""
        if self.holdout is not None and _point(HOLDOUT, visitor) < self.holdout.share:
            return Arm(HOLDOUT, self.holdout.share, self.holdout.answers)
        point = _point(self.name, visitor)
        for arm in self.arms:
            point -= arm.share
            if point < 0:
                return arm
        return self.arms[-1]  # the shares may sum to slightly less than 1 by rounding

    def arms_with_policy(self, policy: PolicyName) -> list[Arm]:
        """Returns the arms of a single policy, without interleaving ones."""
        return [arm for arm in self.arms if arm.answers == policy and arm.against is None]

    @property
    def shares(self) -> dict[str, float]:
        """Share of all visitors by arm, with that of the holdout; the control arm is first."""
        if self.holdout is None:
            return {arm.name: arm.share for arm in self.arms}
        rest = 1 - self.holdout.share
        return {arm.name: rest * arm.share for arm in self.arms} | {HOLDOUT: self.holdout.share}

    @property
    def needs_previous_version(self) -> bool:
        """Whether an arm uses the previous version, which must then stay loaded."""
        return any(arm.answers == PREVIOUS for arm in self.arms)


class InterleavedList(NamedTuple):
    """An interleaved list, and the team (policy) of each of its items."""

    answer: Answer
    teams: list[str]


def read_experiment(path: Path | None) -> Experiment | None:
    """Reads an experiment from a TOML file; None without a path.

    Raises:
        InputError: the file cannot be read or is invalid; the message names the field.
    """
    if path is None:
        return None
    try:
        experiment = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Experiment)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"The experiment file {path} cannot be used: {error}") from error
    problem = _find_problem(experiment)
    if problem:
        raise InputError(f"The experiment file {path} cannot be used: {problem}")
    return experiment


def _point(salt: str, visitor: str) -> float:
    """A point in [0, 1), drawn from the visitor."""
    digest = hashlib.blake2b(f"{salt} {visitor}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _find_problem(experiment: Experiment) -> str | None:
    total = sum(arm.share for arm in experiment.arms)
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        return f"the shares of the arms sum to {total:g}, not to 1"
    names = sorted(arm.name for arm in experiment.arms)
    duplicate = next((one for one, other in pairwise(names) if one == other), None)
    if duplicate is not None:
        return f"two arms are called {duplicate!r}"
    if HOLDOUT in names:
        return f"an arm is called {HOLDOUT!r}, as the visitors of [holdout] are"
    if experiment.name in (HOLDOUT, LONG_TERM_HOLDOUT):
        return f"it is called {experiment.name!r}, which is reserved"
    same = next((arm.name for arm in experiment.arms if arm.answers == arm.against), None)
    return None if same is None else f"the arm {same!r} is against itself"


def interleave(one: tuple[str, Answer], other: tuple[str, Answer], k: int, seed: str) -> InterleavedList:
    """Returns the team-draft interleaving of two lists (Radlinski, Kurup and Joachims 2008).

    In each round both teams, in random order, append their best item that the list does not have yet.

    Args:
        one, other: team name and list.
        k: maximum number of items.
        seed: seed of the random order.
    """
    random = Random(seed)  # noqa: S311
    remaining = {team: list(answer.items) for team, answer in (one, other)}
    items: list[Recommendation] = []
    teams: list[str] = []
    taken: set[str] = set()
    while len(items) < k and any(remaining.values()):
        for team in random.sample(sorted(remaining), len(remaining)):
            best = _take_best(remaining[team], taken)
            if best is not None and len(items) < k:
                items.append(best)
                teams.append(team)
    return InterleavedList(one[1]._replace(items=items, explored=None), teams)


def _take_best(remaining: list[Recommendation], taken: set[str]) -> Recommendation | None:
    while remaining:
        item = remaining.pop(0)
        if item.item_id not in taken:
            taken.add(item.item_id)
            return item
    return None
