"""What installed packages add by entry points: models (`recsys_tasks.models`) and baselines (`recsys_tasks.baselines`).

Imports nothing of the packages until something of theirs is used.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Final

from recsys_tasks.errors import ConfigurationError

MODELS: Final = "recsys_tasks.models"
BASELINES: Final = "recsys_tasks.baselines"


def plugin_names(group: str) -> list[str]:
    """Returns the names that installed packages add to a group, in alphabetical order."""
    return sorted({point.name for point in entry_points(group=group)})


def load_plugin(group: str, name: str) -> Any:
    """Returns what a package adds to a group under a name.

    Raises:
        ConfigurationError: no installed package does, or it cannot be imported.
    """
    for point in entry_points(group=group, name=name):
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"{name} of {group} cannot be imported from {point.value}: {error}") from error
    known = ", ".join(plugin_names(group)) or "nothing"
    raise ConfigurationError(f"No installed package adds {name} to {group}; they add {known}")
