"""Whose credential it is: the API keys of the setting and of the database, and the tokens that they mint."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import itsdangerous
import sqlalchemy as sa

from sql.database import query
from sql.fields import SCOPES

CACHE_SECONDS = 5.0  # how long a revoked key still works, at most
NEW_SECONDS = 1.0  # how long a new key does not work yet, at most
FAILURE_SECONDS = 1.0  # after a failed read, every request fails for this long instead of trying again in turn
PARTIES = ("client_id", "operator_id", "conversation_id")


@dataclass(frozen=True)
class Caller:
    """The holder of a key or token, and its rights."""

    name: str  # for limits and logs: no secret
    scopes: frozenset[str] = frozenset(SCOPES)
    within: Mapping[str, int] = field(default_factory=dict)  # the members that an object within reach has; empty: all
    party: str | None = None  # of a token: the party that it acts as, client or operator
    issuer: str = ""  # identifies the key, or the key that minted the token
    expires_at: float = float("inf")  # by this machine's clock

    def reaches(self, members: Mapping[Any, Any] | None) -> bool:
        """Whether an object with these members is within reach."""
        return members is not None and all(members.get(name) == number for name, number in self.within.items())

    def sees(self, sender: str, state: str) -> bool:
        """Whether such a chat within reach is visible: a client sees the operator's chats only once they are sent."""
        return self.party != "client" or sender == "client" or state == "sent"


ANONYMOUS = Caller("anonymous")  # every caller, while there are no keys


class KeyRing:
    """One process's copy of the keys, read again when it is older than CACHE_SECONDS.

    It has all keys, so a flood of wrong ones costs at most one query a second. Methods that read the keys raise
    sqlalchemy.exc.SQLAlchemyError without a database.
    """

    def __init__(self, engine: sa.Engine, configured: tuple[str, ...]) -> None:
        self._engine = engine
        self._configured = [_hash(key) for key in configured]
        self._lock = threading.Lock()
        self._read_at = self._failed_at = float("-inf")
        self._failure: sa.exc.SQLAlchemyError | None = None
        self._keys: dict[bytes, Caller] = {}
        self._issuers: dict[str, Caller] = {}
        self._signer = itsdangerous.URLSafeSerializer(b"")
        self._is_open = False

    def caller(self, credential: str, works_without_database: bool = False) -> Caller | None:
        """The credential's holder; None: unknown. While there are no keys, ANONYMOUS for everything but tokens.

        `works_without_database`: while the keys cannot be read, the last known ones are good.
        """
        if works_without_database and self._read_at > float("-inf"):
            self._refresh_if_possible()
        else:
            self._refresh()
        found = self._find(credential)
        if found is None and not self._is_open and credential:
            self._refresh(NEW_SECONDS)
            found = self._find(credential)
        return ANONYMOUS if found is None and self._is_open else found

    def _find(self, credential: str) -> Caller | None:
        # By its hash, so the time that this takes reveals nothing about a key's characters.
        return self._keys.get(_hash(credential)) or self._token_holder(credential)

    def is_valid(self, caller: Caller) -> bool:
        """Whether the caller's key or token is still valid, by the last known keys: never waits for the database."""
        self._refresh_in_background()
        if caller is ANONYMOUS:
            return self._is_open
        return caller.expires_at > time.time() and caller.issuer in self._issuers

    def mint(self, caller: Caller, within: Mapping[str, int], party: str, ttl_seconds: int) -> tuple[str, float]:
        """A token, and when it expires. Its rights are at most the caller's, and it ends with the caller's key."""
        self._refresh()
        expires_at = min(time.time() + ttl_seconds, caller.expires_at)
        content = {
            "key": caller.issuer,
            "may": sorted(caller.scopes & {"send", "read"}),
            "of": dict(within),
            "as": party,
            "until": int(expires_at),
        }
        return str(self._signer.dumps(content)), float(int(expires_at))

    def _token_holder(self, token: str) -> Caller | None:
        try:
            content = self._signer.loads(token)
        except (itsdangerous.BadData, UnicodeError):  # UnicodeError: not UTF-8
            return None
        issuer = self._issuers.get(content["key"])
        if issuer is None or content["until"] <= time.time() or not issuer.reaches(content["of"]):
            return None
        kind = next(name for name in reversed(PARTIES) if name in content["of"])
        return Caller(
            f"{content['as']} of {kind} {content['of'][kind]}, store {content['of'].get('store_id', 'any')}",
            issuer.scopes & frozenset(content["may"]),
            content["of"],
            content["as"],
            content["key"],
            float(content["until"]),
        )

    def _is_stale(self, seconds: float) -> bool:
        return time.monotonic() - self._read_at >= seconds

    def _refresh_if_possible(self) -> None:
        # A scrape has a time limit, and an unreachable host takes seconds to fail: only the first request waits for it.
        if self._failure is None:
            self._refresh_quietly()
        else:
            self._refresh_in_background()

    def _refresh_in_background(self) -> None:
        has_failed = time.monotonic() - self._failed_at < FAILURE_SECONDS
        if self._is_stale(CACHE_SECONDS) and not has_failed and not self._lock.locked():
            threading.Thread(target=self._refresh_quietly, name="keys", daemon=True).start()

    def _refresh_quietly(self) -> None:
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            self._refresh()

    def _refresh(self, seconds: float | None = None) -> None:
        seconds = CACHE_SECONDS if seconds is None else seconds
        if not self._is_stale(seconds):
            return
        with self._lock:
            if not self._is_stale(seconds):
                return
            now = time.monotonic()
            if self._failure is not None and now - self._failed_at < FAILURE_SECONDS:
                raise self._failure.with_traceback(None)
            try:
                self._read()
            except sa.exc.SQLAlchemyError as error:
                self._failure, self._failed_at = error, time.monotonic()
                raise
            self._failure, self._read_at = None, now

    def _read(self) -> None:
        with self._engine.connect() as connection:
            rows = connection.execute(query("shared/read_keys")).all()
            secrets = connection.execute(query("api/read_token_secrets")).scalars().all()
        self._is_open = not rows and not self._configured
        self._keys, self._issuers = {}, {ANONYMOUS.issuer: ANONYMOUS} if self._is_open else {}
        for row in rows:
            if not row.revoked:
                within = {} if row.store_id is None else {"store_id": row.store_id}
                key = Caller(f"key {row.name}", frozenset(row.scopes), within, issuer=str(row.key_id))
                self._keys[bytes(row.hash)] = self._issuers[key.issuer] = key
        for position, digest in enumerate(self._configured, 1):
            for secret in secrets:  # the newest last
                # Keyed, because a token contains it: a plain hash would allow guessing a key that a person made up.
                issuer = hmac.digest(bytes(secret), digest, "sha256").hex()
                key = Caller(f"key {position} of SHOPTALK_API_KEYS", issuer=issuer)
                self._keys[digest] = self._issuers[issuer] = key
        self._signer = itsdangerous.URLSafeSerializer(
            [bytes(secret) for secret in secrets],
            salt="shoptalk token 1",  # the number is the version of their format
            signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        )


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
