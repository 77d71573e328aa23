"""Plugins, found by entry points: models (`recsys_tasks.models`) and baselines (`recsys_tasks.baselines`).

A plugin is imported when it is loaded, not when it is listed.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Final

from recsys_tasks.errors import ConfigurationError

MODEL_GROUP: Final = "recsys_tasks.models"
BASELINE_GROUP: Final = "recsys_tasks.baselines"


def plugin_names(group: str) -> list[str]:
    """Returns the names of a group's plugins in alphabetical order."""
    return sorted({point.name for point in entry_points(group=group)})


def load_plugin(group: str, name: str) -> Any:
    """Returns the plugin of a name.

    Raises:
        ConfigurationError: there is none, or it cannot be imported.
    """
    for point in entry_points(group=group, name=name):
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(
                f"Plugin {name} of {group} cannot be imported from {point.value}: {error}. Reinstall its package, or"
                " correct its entry point"
            ) from error
    raise ConfigurationError(f"No plugin {name} of {group}; there are: {', '.join(plugin_names(group)) or 'none'}")
