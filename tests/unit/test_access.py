"""API keys: scopes, expiry, pages, and rotation without a restart."""

from __future__ import annotations

import os
import time
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.serving import access
from recsys_tasks.serving.access import ADMIN, ITEMS, READ, WRITE, AccessControl, hash_key, new_key
from recsys_tasks.serving.messages import RequestError
from recsys_tasks.settings import Settings

SHOP = "https://shop.example"


def _write(file: Path, *entries: str) -> None:
    file.write_text("\n".join(entries), encoding="utf-8")
    later = time.time_ns() + file.stat().st_size  # the clock of the file system may be coarse
    os.utime(file, ns=(later, later))


def _bearer(key: str) -> str:
    return f"Bearer {key}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_a_new_key_has_the_scopes_of_its_entry(file: Path) -> None:
    key, entry = new_key("im Laden – 店", ["read", "items"])
    _write(file, entry)
    caller = AccessControl(Settings(keys_file=file)).identify(_bearer(key), None, "10.0.0.1")
    assert caller.name == "key:im Laden – 店"
    assert {READ, ITEMS} <= caller.scopes
    assert not {WRITE, ADMIN} & caller.scopes
    assert key not in file.read_text(encoding="utf-8")
    assert tomllib.loads(entry)["key"][0]["sha256"] == hash_key(key.encode())


def test_with_a_file_of_keys_nothing_is_open(file: Path) -> None:
    _write(file, "")
    control = AccessControl(Settings(keys_file=file))
    for scope in (READ, WRITE, ITEMS):
        with pytest.raises(RequestError) as raised:
            control.check(control.identify(None, None, "h"), scope)
        assert raised.value.status == 401


def test_an_expired_key_is_refused_with_the_reason(file: Path) -> None:
    now = datetime.now(UTC)
    (old, expired), (new, valid) = (
        new_key(name, ["read"], expires=now + timedelta(days=days)) for name, days in (("old", -1), ("new", 1))
    )
    _write(file, expired, valid)
    control = AccessControl(Settings(keys_file=file))
    control.check(control.identify(_bearer(new), None, "h"), READ)
    with pytest.raises(RequestError, match="`old` expired at"):
        control.check(control.identify(_bearer(old), None, "h"), READ)


def test_a_key_of_pages_counts_only_in_their_requests_and_is_no_proof_of_who_calls(file: Path) -> None:
    key, entry = new_key("page", ["read", "write"], [SHOP])
    _write(file, entry)
    control = AccessControl(Settings(keys_file=file))
    inside = control.identify(_bearer(key), SHOP, "10.0.0.1")
    assert (inside.name, inside.is_verified) == ("address:10.0.0.1", False)
    assert {READ, WRITE} <= inside.scopes
    for origin in (None, "https://elsewhere.example"):
        with pytest.raises(RequestError, match=r"only for pages of https://shop\.example"):
            control.check(control.identify(_bearer(key), origin, "10.0.0.1"), READ)
    assert control.is_allowed_origin(SHOP)
    assert not control.is_allowed_origin("https://elsewhere.example")


def test_a_key_of_pages_cannot_change_items(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="can only be `read` and `write`"):
        new_key("page", ["items"], [SHOP])
    _, entry = new_key("page", ["read"], [SHOP])
    _write(file, entry.replace('["read"]', '["admin"]'))
    with pytest.raises(ConfigurationError, match="can only be `read` and `write`"):
        AccessControl(Settings(keys_file=file))


def test_keys_rotate_without_a_restart_and_an_invalid_file_changes_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 10.0
    monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: now))
    (first, first_entry), (second, second_entry) = (new_key(name, ["read"]) for name in ("first", "second"))
    _write(file, first_entry)
    control = AccessControl(Settings(keys_file=file))

    def accepted() -> list[bool]:
        nonlocal now
        now += 2
        return [READ in control.identify(_bearer(key), None, "h").scopes for key in (first, second)]

    assert accepted() == [True, False]
    _write(file, first_entry, second_entry)
    assert accepted() == [True, True]
    _write(file, second_entry)
    assert accepted() == [False, True]
    _write(file, second_entry, "[[key]]")
    assert accepted() == [False, True]
    file.unlink()
    assert accepted() == [False, True]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[[key]]\nname = 'x'", "missing required field"),
        ("key = 3", "Expected `array`"),
        ("[[key", "Expected"),
    ],
)
def test_an_invalid_file_is_refused_at_the_start(file: Path, content: str, problem: str) -> None:
    _write(file, content)
    with pytest.raises(ConfigurationError, match=problem):
        AccessControl(Settings(keys_file=file))


def test_a_key_may_have_a_rate_limit_of_its_own(file: Path) -> None:
    key, entry = new_key("busy shop", ["read"])
    _write(file, entry, "rate_limit = 500.0")
    control = AccessControl(Settings(keys_file=file))
    caller, stranger = control.identify(_bearer(key), None, "h"), control.identify(None, None, "h")
    assert (caller.rate_limit, stranger.rate_limit) == (500.0, None)


def test_one_key_may_be_in_two_settings() -> None:
    control = AccessControl(Settings(read_keys=("both",), write_keys=("both",)))
    assert {READ, WRITE} <= control.identify(_bearer("both"), None, "h").scopes


def test_one_subscriber_is_one_caller_and_the_log_holds_no_address() -> None:
    control = AccessControl(Settings())
    one, same, other = (
        control.identify(None, None, host) for host in ("2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1")
    )
    assert one.name == same.name != other.name
    secrets = (b"0" * 32, b"1" * 32)
    assert len({one.pseudonym(secret) for secret in secrets}) == 2
    assert "2001" not in one.pseudonym(secrets[0])
