"""Online metrics of every version that served, logged to its MLflow run beside the offline ones."""

from __future__ import annotations

import logging

from sqlalchemy import Engine

from recsys_tasks.errors import InputError
from recsys_tasks.experiments.online_metrics import CLICK_THROUGH, load_latest_metrics, load_online_metrics
from recsys_tasks.monitoring.monitors import serving_period
from recsys_tasks.names import RECOMMENDATIONS
from recsys_tasks.registry import runs, versions

log = logging.getLogger(__name__)
ALL_ARMS = "all"


def log_online_metrics(warehouse: Engine) -> None:
    """Logs rates over all days, and latency and coverage of the latest day, per version and arm; tags the run.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    with warehouse.connect() as connection:
        period = serving_period(connection)
        if period is None:
            return
        rates, latest = load_online_metrics(connection, period), load_latest_metrics(connection)
    by_version: dict[str, dict[tuple[str, str], float]] = {}
    for key, metrics in rates.items():
        if key.list == RECOMMENDATIONS and not key.segment and key.model_version:
            of_version = by_version.setdefault(key.model_version, {})
            arm = key.arm or ALL_ARMS
            of_version |= {(arm, name): rate.value for name, rate in metrics.rates.items()}
            of_version[arm, "visitors"] = metrics.visitors
    for (number, arm, name), value in latest.items():
        by_version.setdefault(number, {})[arm or ALL_ARMS, name] = value
    for number, values in by_version.items():
        ctr = ", ".join(f"{arm} {value:.2%}" for (arm, name), value in values.items() if name == CLICK_THROUGH)
        try:
            runs.log_online_metrics(versions.version_by_number(number), values, f"until {period.end:%Y-%m-%d}: {ctr}")
        except InputError as error:  # the version was deleted from the registry, its impressions were not
            log.warning("Version %s: %s", number, error)
