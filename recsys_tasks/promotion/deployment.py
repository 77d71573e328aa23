"""Where versions are promoted to: the warehouse, the endpoints, the folders, and the rules of gate and rollout."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine

from recsys_tasks.client.fleet import Fleet
from recsys_tasks.evaluation.gate import GateRules, load_gate_rules
from recsys_tasks.settings import Settings
from recsys_tasks.storage.folder import Folder


@dataclass(frozen=True)
class RolloutPlan:
    """How long and for which share a challenger runs beside the champion; a share of 0 skips a phase."""

    shadow_share: float
    shadow_duration: timedelta
    canary_share: float
    canary_duration: timedelta


@dataclass(frozen=True)
class Deployment:
    """Everything a promotion, rollout, rollback or reconciliation works on.

    Attributes:
        warehouse: holds the deployment record.
        settings: of this process; endpoints, token and gate rules are read from it when they are needed.
    """

    warehouse: Engine
    settings: Settings

    @property
    def rollout_plan(self) -> RolloutPlan:
        """Phases of a rollout."""
        return RolloutPlan(
            self.settings.shadow_share,
            timedelta(minutes=self.settings.shadow_minutes),
            self.settings.canary_share,
            timedelta(hours=self.settings.canary_hours),
        )

    @property
    def fleet(self) -> Fleet:
        """The endpoints.

        Raises:
            ConfigurationError: RECSYS_ADMIN_TOKEN is not set.
        """
        return Fleet(self.settings.endpoint_urls, self.settings.require_admin_token())

    @property
    def bundles(self) -> Path:
        """Folder of the bundles on this machine, each in a folder named by its digest."""
        return self.settings.home / "bundles"

    @property
    def shared_bundles(self) -> Folder | None:
        """Folder of the bundles that all machines share, as archives; None where no store is configured."""
        return self.settings.shared_files / "bundles" if self.settings.store else None

    @property
    def snapshots(self) -> Folder:
        """Folder of feature snapshots."""
        return self.settings.snapshots

    @property
    def gate_rules(self) -> GateRules:
        """Rules of the promotion gate.

        Raises:
            ConfigurationError: the file is missing or wrong.
        """
        return load_gate_rules(self.settings.gate_rules)
