"""Rules of the monitors: what each one checks, from which size on it matters, and which action an alarm asks for."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.plugins import MONITOR_GROUP, check_plugin_names, plugin_names

ALERT, RETRAIN, HOLD_PROMOTIONS, ROLL_BACK = "alert", "retrain", "hold_promotions", "roll_back"
_DEFAULT = "monitors.toml"

Action = Literal["alert", "retrain", "hold_promotions", "roll_back"]
MONITORS = ("ctr_against_arm", "ctr_regression", "drift", "sample_ratio", "quarantine_rate")
Distribution = Literal["items", "categories", "queries", "event_types", "scores"]


class Rule(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One rule of `monitors.toml`.

    Attributes:
        name: how alarms call it.
        monitor: the check that it configures: one of `MONITORS`, or that of a plugin.
        action: what an alarm asks for.
        arm: the arm of the running experiment that `ctr_against_arm` compares with.
        distribution: what `drift` compares.
        min_effect: a smaller relative loss of click-through, share of rows or PSI raises no alarm.
        confidence: of the test that the effect is real.
        days: length of the window that is checked, in periods of 24 hours up to the latest impression.
        min_visitors: fewer visitors are not tested.
        min_events: fewer events are not tested.
    """

    name: str
    monitor: str
    action: Action
    arm: Literal["popularity", "neighbours", "personal_frequency", "previous"] = "popularity"
    distribution: Distribution = "items"
    min_effect: Annotated[float, msgspec.Meta(ge=0)] = 0.05
    confidence: Annotated[float, msgspec.Meta(gt=0.5, lt=1)] = 0.95
    days: Annotated[int, msgspec.Meta(ge=1)] = 1
    min_visitors: Annotated[int, msgspec.Meta(ge=2)] = 30
    min_events: Annotated[int, msgspec.Meta(ge=1)] = 200


class _RuleFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    rules: list[Rule]


def read_rules(path: Path | None = None) -> list[Rule]:
    """Reads the rules of a file, by default those of the package.

    Raises:
        ConfigurationError: the file is missing or wrong; the message names the key.
    """
    try:
        text = path.read_bytes() if path else resources.files(__package__).joinpath(_DEFAULT).read_bytes()
        rules = msgspec.toml.decode(text, type=_RuleFile).rules
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path or _DEFAULT} cannot be read as monitor rules: {error}") from error
    check_plugin_names(MONITOR_GROUP, MONITORS)
    known = [*MONITORS, *plugin_names(MONITOR_GROUP)]
    for index, rule in enumerate(rules):
        if rule.monitor not in known:
            raise ConfigurationError(
                f"{path or _DEFAULT} cannot be read as monitor rules: no monitor {rule.monitor!r}, but"
                f" {', '.join(known)} - at `$.rules[{index}].monitor`"
            )
    return rules
