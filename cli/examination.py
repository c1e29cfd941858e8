"""Examining an installation: what a check finds, what it looks with, and how all are run within a few seconds."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa

from cli.output import without_passwords
from cli.session import Session, Unreachable
from sql.database import CONNECTION, hiding_the_password, query

NAME = "shoptalk doctor"
SECONDS = 5.0  # for all checks together; what has not been looked at by then is said
STATEMENT_SECONDS = 1.5
LOCK_SECONDS = 0.5
WHO_HOLDS_LOCKS = "see the check locks; it may be one that has just ended: look again"


@dataclass(frozen=True)
class Finding:
    """What one check says of one thing."""

    status: str  # ok, warning, problem, or unknown: not allowed to look, or not able to
    text: str
    mend: str | None = None


def ok(text: str) -> Finding:
    """All is well."""
    return Finding("ok", text)


def warning(text: str, mend: str) -> Finding:
    """Works, but somebody should know."""
    return Finding("warning", text, mend)


def problem(text: str, mend: str) -> Finding:
    """Something does not work, or will not much longer."""
    return Finding("problem", text, mend)


def unknown(text: str, mend: str) -> Finding:
    """Could not be looked at."""
    return Finding("unknown", text, mend)


def graded(figure: float, at_warning: float, at_problem: float, text: str, mend: str, then: str = "") -> Finding:
    """Of a figure that must not grow; `then`: what is said besides where it is a problem."""
    if figure > at_problem:
        return problem(text + then, mend)
    return warning(text, mend) if figure > at_warning else ok(text)


class Look(Session):
    """What a check looks with: statements past any pooler, and connections of its own where it needs them.

    From its beginning it lasts SECONDS. Raises Unreachable.
    """

    def __init__(self, url: str, direct_url: str, environ: Mapping[str, str]) -> None:
        self.url = url
        self.direct_url = direct_url
        self.environ = environ
        self.keeps_session: bool | None = None  # whether direct_url does; None: not looked at yet
        self.has_schema = True  # the check of the server says so
        self.sees_all = True  # whether the sessions of others are shown: the same
        self.account = ""  # who we are there: the same
        self.is_over = False
        self._opened: list[psycopg.Connection[tuple[Any, ...]]] = []
        self._lock = threading.Lock()
        self._engine = sa.create_engine(
            "postgresql+psycopg://", creator=lambda: self.connect(direct_url, autocommit=False), poolclass=sa.NullPool
        )
        self._alarm = threading.Timer(SECONDS, self.hang_up)
        self._alarm.daemon = True
        self._alarm.start()
        try:
            super().__init__(self._engine.connect())
        except sa.exc.DBAPIError as error:  # a pooler lets one in whose server is away
            self.close()
            said = "no answer" if self.is_over else _first_line(error.orig or error)
            raise Unreachable(f"cannot reach the database: {said}") from None

    def connect(self, url: str, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection that ends with the examination. Nothing is prepared: it may lead to a pooler."""
        limits = CONNECTION | {"connect_timeout": 2, "tcp_user_timeout": 2000}
        with hiding_the_password():
            opened = psycopg.connect(
                url, autocommit=autocommit, prepare_threshold=None, application_name=NAME, **limits
            )
        with self._lock:
            self._opened.append(opened)
        if self.is_over:
            opened.close()
        return opened

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """For the statements of one check: they change nothing and do not wait."""
        with self._connection.begin():
            times = {"statement_timeout": f"{STATEMENT_SECONDS}s", "lock_timeout": f"{LOCK_SECONDS}s"}
            self.rows(query("be_brief"), **times)
            yield

    def hang_up(self) -> None:
        """Ends whatever is still waited for, also where the other side has stopped answering."""
        self.is_over = True
        with self._lock:
            for connection in self._opened:
                with contextlib.suppress(psycopg.Error, OSError), _line(connection) as line:
                    line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the connections."""
        self._alarm.cancel()
        for connection in self._opened:
            connection.close()
        self._engine.dispose()


@dataclass(frozen=True)
class Check:
    """One check. `of_ours`: it looks at our tables, so it needs them."""

    name: str
    find: Callable[[Look], Iterable[Finding]]
    of_ours: bool = False


def examine(look: Look, checks: Sequence[Check]) -> list[tuple[str, Finding]]:
    """Runs the checks in their order, each by itself: one that raises is a finding, and the next one is run."""
    return [(check.name, _clean(finding)) for check in checks for finding in _run(look, check)]


def _run(look: Look, check: Check) -> list[Finding]:
    if look.is_over:
        return [unknown(f"not looked at: {SECONDS:.0f} s were over", "look again")]
    if check.of_ours and not look.has_schema:
        return [unknown("there are no tables of ours to look at", "see the check server")]
    try:
        with look.transaction():
            return list(check.find(look))
    except psycopg.errors.InsufficientPrivilege as error:
        return [unknown(f"not allowed to look: {_first_line(error)}", "grant shoptalk_inspector to this account")]
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
        return [problem(f"could not look within {STATEMENT_SECONDS} s: {_first_line(error)}", WHO_HOLDS_LOCKS)]
    except Exception as error:
        if look.is_over:
            return [
                problem(f"no answer within {SECONDS:.0f} s", "see what the server does: is it overloaded or stopped?")
            ]
        said = f"{type(error).__name__}: {_first_line(error)}"
        return [
            problem(f"the check itself failed: {said}", "if the other findings do not explain it, it is a bug here")
        ]


def _line(connection: psycopg.Connection[tuple[Any, ...]]) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.pgconn.socket))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


def _clean(finding: Finding) -> Finding:
    mend = None if finding.mend is None else without_passwords(finding.mend)
    return Finding(finding.status, without_passwords(finding.text), mend)
