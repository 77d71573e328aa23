"""Actions of operators, each recorded at its start and with its outcome at its end."""

from __future__ import annotations

from collections.abc import Callable

from recsys_tasks.client import EndpointError, RecommenderClient
from recsys_tasks.console.rule_form import parse_rules
from recsys_tasks.errors import RecsysError
from recsys_tasks.promotion.deployment_record import read_state
from recsys_tasks.settings import Settings
from recsys_tasks.steps import promotion
from recsys_tasks.warehouse import engine, statement


def promote(operator: str, number: str, reason: str) -> str:
    """Promotes a version, if the gate allows it; returns what happened.

    Raises:
        RecsysError: the gate refuses the version, or the warehouse, MLflow or an endpoint does not answer; the outcome
            is recorded.
    """

    def run() -> str:
        promoted = promotion.promote(number, operator)
        return f"Version {promoted.version} serves at every endpoint"

    return _record_action(operator, "promote", f"version {number}", reason, run)


def roll_back(operator: str, version: str, reason: str) -> str:
    """Takes a version back: ends its rollout, or returns to the version before it; returns what happened.

    A version that neither serves nor is in a rollout any more stays away: a form that is sent twice acts once.
    """

    def run() -> str:
        serving = promotion.roll_back(reason, operator, bad_version=version)
        return f"Version {version} is taken back; version {serving} serves at every endpoint"

    return _record_action(operator, "roll_back", f"version {version}", reason, run)


def pause_rollout(operator: str, reason: str) -> str:
    """Pauses the rollout under way; returns what happened."""

    def run() -> str:
        return f"The rollout of version {promotion.pause_rollout(reason, operator)} is paused"

    return _record_action(operator, "pause_rollout", _rollout(), reason, run)


def resume_rollout(operator: str, reason: str) -> str:
    """Resumes the paused rollout; returns what happened."""

    def run() -> str:
        return f"The rollout of version {promotion.resume_rollout(reason, operator)} is resumed"

    return _record_action(operator, "resume_rollout", _rollout(), reason, run)


def _rollout() -> str:
    rollout = read_state(engine()).rollout
    return "no rollout" if rollout is None else f"version {rollout.version.model_version}"


def change_rules(settings: Settings, operator: str, text: str, version: int, reason: str) -> str:
    """Replaces the rules at every endpoint, if a version is still in use; returns what happened.

    Raises:
        InputError: the rules are not valid.
        EndpointError: another change came first.
    """
    rules = parse_rules(text)

    def run() -> str:
        for index, url in enumerate(settings.endpoint_urls):
            with RecommenderClient(url, settings.require_admin_token()) as client:
                client.put_rules(rules, version if index == 0 else None)
        return "The new rules are in use at every endpoint"

    return _record_action(operator, "change_rules", f"rules, version {version}", f"{reason}: {text}", run)


def _record_action(operator: str, action: str, subject: str, detail: str, run: Callable[[], str]) -> str:
    row = {"operator": operator, "action": action, "subject": subject, "detail": detail}
    with engine().begin() as connection:
        number = connection.scalar(statement("console/insert_action"), row)
    outcome = "failed: unexpected error; the console's log has the details"
    try:
        outcome = run()
    except (RecsysError, EndpointError) as error:
        outcome = f"failed: {error}"
        raise
    finally:
        with engine().begin() as connection:
            connection.execute(statement("console/finish_action"), {"action_id": number, "outcome": outcome})
    return outcome
