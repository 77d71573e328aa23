"""Access control: API keys with scopes, sent as `Authorization: Bearer KEY`, and the pages that may call (CORS).

Keys are settings, or entries of a TOML file that the endpoint reads again when it changes:

[[key]]
name = "web shop"
sha256 = "…"                                # of the key; `python -m recsys_tasks key NAME` makes both
scopes = ["read", "write"]
origins = ["https://shop.example"]          # a key that pages hold; only these may use it
expires = 2027-01-01T00:00:00Z
rate_limit = 5                              # requests per second
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
import tomllib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.serving.messages import RequestError
from recsys_tasks.settings import Settings
from recsys_tasks.wire.items import Timestamp

log = logging.getLogger(__name__)

Scope = Literal["open", "read", "write", "items", "admin"]
OPEN: Final = "open"
READ: Final = "read"
WRITE: Final = "write"
ITEMS: Final = "items"
ADMIN: Final = "admin"
_ALL_SCOPES: Final[frozenset[Scope]] = frozenset((OPEN, READ, WRITE, ITEMS, ADMIN))
_PAGE_SCOPES: Final[frozenset[Scope]] = frozenset((READ, WRITE))
_RELOAD_SECONDS = 1.0


class ApiKey(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A key of the file of keys.

    Attributes:
        name: of the caller, for the event log, the rate limit and error messages.
        sha256: SHA-256 of the key, in hexadecimal digits.
        scopes: `read` (lists, searches), `write` (events), `items` (changes of items), `admin` (everything).
        origins: of the pages that contain the key. Every visitor of such a page can read the key, so its scopes are
            limited to `read` and `write`, and its callers are identified by address.
        expires: the key is valid before this time.
        rate_limit: requests per second, of each address if the key has origins; default: `RECSYS_RATE_LIMIT`.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    scopes: Annotated[list[Literal["read", "write", "items", "admin"]], msgspec.Meta(min_length=1)]
    origins: list[str] = []
    expires: Timestamp | None = None
    rate_limit: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def rejection(self, origin: str | None) -> str | None:
        """Returns why the key does not count in a request from a page of an origin; None if it counts."""
        if self.expires is not None and datetime.now(UTC) >= self.expires:
            return f"the key `{self.name}` expired at {self.expires.isoformat()}"
        if self.origins and origin not in self.origins:
            return f"the key `{self.name}` is only for pages of {', '.join(self.origins)}"
        return None


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    key: list[ApiKey] = []


class Caller(NamedTuple):
    """Who sends a request.

    Attributes:
        name: `key:NAME`, or `address:HOST` for callers without a key that only they know.
        scopes: what the caller may do.
        rejection: why the caller's key does not count, if it does not.
        rate_limit: requests per second, if the key has a limit of its own.
    """

    name: str
    scopes: frozenset[Scope]
    rejection: str | None = None
    rate_limit: float | None = None

    @property
    def is_verified(self) -> bool:
        """Whether the caller has a key that only they know."""
        return is_key(self.name)

    def pseudonym(self, secret: bytes) -> str:
        """The name for the event log: an address as a digest with a secret, so that the log holds no addresses."""
        if self.is_verified:
            return self.name
        return f"address:{hashlib.blake2b(self.name.encode(), digest_size=6, key=secret).hexdigest()}"


@lru_cache(10_000)
def network_of(host: str) -> str:
    """Returns an address, or the network of an IPv6 address: one subscriber has a whole one (/64)."""
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:  # a name that a proxy sent
        return host
    return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))


def is_key(name: str) -> bool:
    """Whether the name of a caller is that of a key that only they know."""
    return name.startswith("key:")


class AccessControl:
    """The API keys of one endpoint.

    Without read keys, anyone can request lists. Without write keys, anyone can post events. With a file of keys, nobody
    can do either without a key. The admin token grants every scope; without it and without a key that has the scope
    `admin`, the admin routes are disabled.

    Raises:
        ConfigurationError: the file of keys is not valid.
    """

    def __init__(self, settings: Settings) -> None:
        self._configured = _configured_keys(settings)
        self._allowed_origins = frozenset(settings.allowed_origins)
        self._file = settings.keys_file
        is_open = {READ: not (settings.read_keys or self._file), WRITE: not (settings.write_keys or self._file)}
        self._open_scopes: frozenset[Scope] = frozenset((OPEN, *(scope for scope in (READ, WRITE) if is_open[scope])))
        self._modified_ns, self._checked_at = 0, 0.0
        self._use(_read_keys(self._file) if self._file else [])

    def identify(self, authorization: str | None, origin: str | None, host: str) -> Caller:
        """Returns who sends a request. A caller with an unknown key counts as its address: invented keys give nobody a
        rate limit of their own.

        Args:
            authorization, origin: the headers of the request.
            host: address of the caller.
        """
        address = f"address:{network_of(host)}"
        if authorization is None:
            return Caller(address, self._open_scopes)
        self._reload_if_changed()
        key = self._keys.get(_digest(authorization))
        if key is None:
            return Caller(address, self._open_scopes)
        rejection = key.rejection(origin)
        if rejection is not None:
            return Caller(address, self._open_scopes, rejection)
        granted = _ALL_SCOPES if ADMIN in key.scopes else self._open_scopes.union(key.scopes)
        return Caller(address if key.origins else f"key:{key.name}", granted, None, key.rate_limit)

    def check(self, caller: Caller, scope: Scope) -> None:
        """Checks that a caller has a scope.

        Raises:
            RequestError: it does not (401), or the admin routes are disabled (403).
        """
        if scope in caller.scopes:
            return
        if scope == ADMIN and not any(ADMIN in key.scopes for key in self._keys.values()):
            raise RequestError(
                403, "Admin routes disabled", "there is no admin key: set RECSYS_ADMIN_TOKEN or RECSYS_KEYS_FILE"
            )
        wanted = f"send `Authorization: Bearer KEY` with a key that has the scope `{scope}`"
        raise RequestError(401, "Not authorized", f"{caller.rejection}; {wanted}" if caller.rejection else wanted)

    def is_admin(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header carries a key with the scope `admin`."""
        return ADMIN in self.identify(authorization, None, "").scopes

    def is_allowed_origin(self, origin: str) -> bool:
        """Whether pages of an origin may read the answers (CORS)."""
        self._reload_if_changed()
        return origin in self._allowed_origins or "*" in self._allowed_origins or origin in self._key_origins

    def _reload_if_changed(self) -> None:
        """Reads the file of keys again if it has changed. An invalid file is logged, and the keys stay as they are."""
        now = time.monotonic()
        if self._file is None or now - self._checked_at < _RELOAD_SECONDS:
            return
        self._checked_at = now
        try:
            modified_ns = self._file.stat().st_mtime_ns
            if modified_ns != self._modified_ns:
                self._modified_ns = modified_ns
                self._use(_read_keys(self._file))
                log.info("Read the keys in %s again", self._file)
        except (OSError, ConfigurationError) as error:
            log.error("The keys stay as they were: %s", error)

    def _use(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.sha256: key for key in (*keys, *self._configured)}
        self._key_origins = {origin for key in self._keys.values() for origin in key.origins}


def _configured_keys(settings: Settings) -> list[ApiKey]:
    """Keys among the settings, named by their first scope and their place in the list."""
    admin = [] if settings.admin_token is None else [settings.admin_token]
    found: dict[str, ApiKey] = {}
    for scope, keys in ((READ, settings.read_keys), (WRITE, settings.write_keys), (ADMIN, admin)):
        for number, key in enumerate(keys, start=1):
            sha256 = hash_key(key.get_secret_value().encode())
            known = found.get(sha256, ApiKey(f"{scope}-{number}", sha256, []))
            found[sha256] = msgspec.structs.replace(known, scopes=[*known.scopes, scope])
    return [*found.values()]


def _read_keys(path: Path) -> list[ApiKey]:
    """Reads a file of keys.

    Raises:
        ConfigurationError: the file cannot be read, or a key is not valid; names the field.
    """
    try:
        keys = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _KeyFile).key
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"The file of keys {path} is not valid: {error}") from error
    for key in keys:
        _check_scopes(key)
    for field, values in (("name", [key.name for key in keys]), ("sha256", [key.sha256 for key in keys])):
        if len(set(values)) < len(values):
            raise ConfigurationError(f"{path}: two keys have the same {field}")
    return keys


def new_key(
    name: str, scopes: Sequence[str], origins: Sequence[str] = (), expires: datetime | None = None
) -> tuple[str, str]:
    """Returns a new key, and its entry for the file of keys.

    Raises:
        ConfigurationError: a page may not hold a key with these scopes.
    """
    key = secrets.token_urlsafe(32)
    fields = {"name": name, "sha256": hash_key(key.encode()), "scopes": list(scopes), "origins": list(origins)}
    found = msgspec.convert({**fields, "expires": expires}, ApiKey)
    _check_scopes(found)
    lines = [f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in fields.items() if value]
    return key, "\n".join(["[[key]]", *lines, *([f"expires = {expires.isoformat()}"] if expires else [])])


def hash_key(key: bytes) -> str:
    """Returns the SHA-256 of a key, in hexadecimal digits."""
    return hashlib.sha256(key).hexdigest()


def _check_scopes(key: ApiKey) -> None:
    if key.origins and not _PAGE_SCOPES.issuperset(key.scopes):
        raise ConfigurationError(f"the key `{key.name}` has origins, so its scopes can only be `read` and `write`")


def _digest(authorization: str) -> str:
    """Returns the SHA-256 of the key in an `Authorization` header; the name of its scheme has no case (RFC 9110)."""
    scheme, _, key = authorization.partition(" ")
    return hash_key(key.strip().encode("latin-1")) if scheme.lower() == "bearer" else ""
