"""Who a credential belongs to: the keys of the setting and of the database, and the tokens that they mint."""

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

SCOPES = frozenset({"send", "read", "admin"})
CACHE_SECONDS = 5.0  # how long a key that is revoked goes on working, at most
NEW_SECONDS = 1.0  # and how long one that is new does not yet
FAILURE_SECONDS = 1.0  # so long a failure to read them is everybody's: they do not all wait for one after the other
PARTIES = ("client_id", "operator_id", "conversation_id")


@dataclass(frozen=True)
class Caller:
    """Who asks, and what they may."""

    name: str  # for limits and logs: no secret
    scopes: frozenset[str] = SCOPES
    within: Mapping[str, int] = field(default_factory=dict)  # what an object must have to be theirs; empty: all
    party: str | None = None  # of a token: as whom it speaks, client or operator
    issuer: str = ""  # what names the key, or the key that minted the token
    expires_at: float = float("inf")  # by this machine's clock

    def reaches(self, thing: Mapping[Any, Any] | None) -> bool:
        """Whether a thing with these members is within what they may touch."""
        return thing is not None and all(thing.get(name) == number for name, number in self.within.items())

    def sees(self, sender: str, state: str) -> bool:
        """Whether they get to see such a chat of theirs: a client none of the operator's that still waits."""
        return self.party != "client" or sender == "client" or state == "sent"


ANYBODY = Caller("anybody")  # where no keys are configured


class KeyRing:
    """One process's knowledge of the keys, read anew when it is older than CACHE_SECONDS.

    All keys at once, so that a flood of wrong ones asks the database once a second. Whatever reads them raises
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

    def caller(self, credential: str, outlives_database: bool = False) -> Caller | None:
        """Whose it is; None: nobody's that is known. Without any keys everybody is ANYBODY, but for tokens.

        `outlives_database`: who is known is let in also while the keys cannot be read anew.
        """
        if outlives_database and self._read_at > float("-inf"):
            self._refresh_if_possible()
        else:
            self._refresh()
        found = self._find(credential)
        if found is None and not self._is_open and credential:
            self._refresh(NEW_SECONDS)
            found = self._find(credential)
        return ANYBODY if found is None and self._is_open else found

    def _find(self, credential: str) -> Caller | None:
        # By its hash: the time that this takes tells nothing of a key's letters.
        return self._keys.get(_hash(credential)) or self._token_holder(credential)

    def still_holds(self, caller: Caller) -> bool:
        """Whether who was let in would be let in now, as far as is known: never waits for the database."""
        self._refresh_meanwhile()
        if caller is ANYBODY:
            return self._is_open
        return caller.expires_at > time.time() and caller.issuer in self._issuers

    def mint(self, caller: Caller, within: Mapping[str, int], party: str, ttl_seconds: int) -> tuple[str, float]:
        """A token, and when it expires. It may do no more than the caller and dies with the caller's key."""
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
        except (itsdangerous.BadData, UnicodeError):  # UnicodeError: bytes that are no UTF-8
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
        # A scrape has its time limit, and a host that is gone takes seconds to fail: only the first waits for it.
        if self._failure is None:
            self._refresh_quietly()
        else:
            self._refresh_meanwhile()

    def _refresh_meanwhile(self) -> None:
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
            rows = connection.execute(query("read_keys")).all()
            secrets = connection.execute(query("read_token_secrets")).scalars().all()
        self._is_open = not rows and not self._configured
        self._keys, self._issuers = {}, {ANYBODY.issuer: ANYBODY} if self._is_open else {}
        for row in rows:
            if not row.revoked:
                within = {} if row.store_id is None else {"store_id": row.store_id}
                key = Caller(f"key {row.name}", frozenset(row.scopes), within, issuer=str(row.key_id))
                self._keys[bytes(row.hash)] = self._issuers[key.issuer] = key
        for place, digest in enumerate(self._configured, 1):
            for secret in secrets:  # the newest last
                # Keyed, because a token shows it: from a plain hash one could guess at a key that people chose.
                issuer = hmac.digest(bytes(secret), digest, "sha256").hex()
                key = Caller(f"key {place} of SHOPTALK_API_KEYS", issuer=issuer)
                self._keys[digest] = self._issuers[issuer] = key
        self._signer = itsdangerous.URLSafeSerializer(
            [bytes(secret) for secret in secrets],
            salt="shoptalk token 1",  # the number is of their shape
            signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        )


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
