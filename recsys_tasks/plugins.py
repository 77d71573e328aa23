"""Plugins, found by entry points: models, baselines, metrics, gate rules and monitors.

The groups are `recsys_tasks.models`, `recsys_tasks.baselines`, `recsys_tasks.metrics`, `recsys_tasks.gate_rules` and
`recsys_tasks.monitors`. A plugin is imported when it is loaded, not when it is listed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.metadata import entry_points
from typing import Any, Final

from recsys_tasks.errors import ConfigurationError

MODEL_GROUP: Final = "recsys_tasks.models"
BASELINE_GROUP: Final = "recsys_tasks.baselines"
METRIC_GROUP: Final = "recsys_tasks.metrics"
GATE_RULE_GROUP: Final = "recsys_tasks.gate_rules"
MONITOR_GROUP: Final = "recsys_tasks.monitors"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_NAME_IN_WORDS: Final = "letters, digits, - and _"


def plugin_names(group: str) -> list[str]:
    """Returns the names of a group's plugins in alphabetical order."""
    return sorted({point.name for point in entry_points(group=group)})


def check_plugin_names(
    group: str, reserved: Collection[str], form: re.Pattern[str] = _NAME, form_in_words: str = _NAME_IN_WORDS
) -> None:
    """Raises an error if the name of a plugin cannot be used.

    Raises:
        ConfigurationError: it is reserved, or has another form (by default letters, digits, hyphens, underscores).
    """
    for name in plugin_names(group):
        if name in reserved or not form.fullmatch(name):
            raise ConfigurationError(
                f"The plugin {name} of {group} needs another name: it may have {form_in_words}, and must be none of"
                f" {', '.join(sorted(reserved))}"
            )


def load_plugin(group: str, name: str) -> Any:
    """Returns the plugin of a name.

    Raises:
        ConfigurationError: there is none, or it cannot be imported.
    """
    for point in entry_points(group=group, name=name):
        try:
            return point.load()
        except Exception as error:  # whatever its code raises
            raise ConfigurationError(
                f"Plugin {name} of {group} cannot be imported from {point.value}: {error}. Reinstall its package, or"
                " correct its entry point"
            ) from error
    raise ConfigurationError(f"No plugin {name} of {group}; there are: {', '.join(plugin_names(group)) or 'none'}")
