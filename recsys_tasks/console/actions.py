"""What people do in the console. Each action is recorded when it starts, and with its outcome when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from recsys_tasks.client import EndpointError, RecommenderClient
from recsys_tasks.client.admin import AdminClient
from recsys_tasks.errors import InputError, RecsysError
from recsys_tasks.promotion.deployment_record import read_state
from recsys_tasks.settings import Settings
from recsys_tasks.steps import promotion
from recsys_tasks.warehouse import engine, statement
from recsys_tasks.wire.rules import MerchandisingRules, check_rules

_ROLLOUT_POLL_SECONDS = 5.0


def promote(person: str, number: str, reason: str) -> str:
    """Promotes a version, if the gate allows it; returns what happened.

    Raises:
        RecsysError: the gate refuses the version, or a part does not answer; the record has it.
    """

    def run() -> str:
        promoted = promotion.promote(number, person, lambda: time.sleep(_ROLLOUT_POLL_SECONDS))
        return f"Version {promoted.version} serves at every endpoint"

    return _recorded(person, "promote", f"version {number}", reason, run)


def roll_back(person: str, reason: str) -> str:
    """Ends the rollout under way, or returns to the previous version; returns what happened."""
    subject = read_state(engine()).served
    named = f"version {subject[-1].model_version}" if subject else "nothing"
    return _recorded(
        person, "roll back", named, reason, lambda: f"Version {promotion.roll_back(reason, person)} serves now"
    )


def change_rollout(settings: Settings, person: str, mode: str, reason: str) -> str:
    """Pauses a rollout (`held`), or goes on with it (`shadow` or `canary`, by the settings); returns what happened.

    Raises:
        InputError: no rollout is under way.
    """
    rollout = read_state(engine()).rollout
    if rollout is None:
        raise InputError("No rollout is under way")
    digest, number = rollout.version.bundle_digest or "", rollout.version.model_version

    def run() -> str:
        if mode == "held":
            chosen, share = "held", 0.0
        elif settings.canary_share:
            chosen, share = "canary", settings.canary_share
        else:
            chosen, share = "shadow", settings.shadow_share
        for url in settings.endpoint_urls:
            AdminClient(url, settings.require_admin_token()).change_staged(digest, chosen, share=share)
        return f"Version {number} is in the mode {chosen} at every endpoint"

    return _recorded(person, "pause" if mode == "held" else "resume", f"version {number}", reason, run)


def parse_rules(text: str) -> MerchandisingRules:
    """Returns merchandising rules from JSON.

    Raises:
        InputError: they are not valid; names the field.
    """
    try:
        rules = msgspec.json.decode(text.encode(), type=MerchandisingRules)
    except msgspec.MsgspecError as error:
        raise InputError(f"The rules are not valid: {error}") from error
    check_rules(rules, "$")
    return rules


def change_rules(settings: Settings, person: str, text: str, version: int, reason: str) -> str:
    """Replaces the rules at every endpoint, if a version is still in use; returns what happened.

    Raises:
        InputError: the rules are not valid.
        EndpointError: another change came first.
    """
    rules = parse_rules(text)

    def run() -> str:
        numbers = []
        for place, url in enumerate(settings.endpoint_urls):
            with RecommenderClient(url, settings.require_admin_token()) as client:
                numbers.append(client.put_rules(rules, version if place == 0 else None).version)
        return f"Version {numbers[0]} of the rules is in use at every endpoint"

    return _recorded(person, "change rules", f"rules, version {version}", f"{reason}: {text}", run)


def _recorded(person: str, action: str, subject: str, detail: str, run: Callable[[], str]) -> str:
    row = {"person": person, "action": action, "subject": subject, "detail": detail}
    with engine().begin() as connection:
        number = connection.scalar(statement("console/insert_action"), row)
    outcome = "failed: unexpected error, see the log of the console"
    try:
        outcome = run()
    except (RecsysError, EndpointError) as error:
        outcome = f"failed: {error}"
        raise
    finally:
        with engine().begin() as connection:
            connection.execute(statement("console/finish_action"), {"action_id": number, "outcome": outcome})
    return outcome
