"""Examining an installation: findings, the context that checks work in, and running all checks within a few seconds."""

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

from cli.output import mask_passwords
from cli.session import Session, UnreachableError
from sql.database import CONNECTION, hiding_the_password, query

NAME = "shoptalk doctor"
SECONDS = 5.0  # for all checks together; those that do not run in time are reported as unknown
STATEMENT_SECONDS = 1.5
LOCK_SECONDS = 0.5
CHECK_LOCKS = "see the check locks; if it finds nothing, the lock has been released: try again"


@dataclass(frozen=True)
class Finding:
    """One result of a check."""

    status: str  # ok, warning, problem, or unknown: could not be checked
    text: str
    fix: str | None = None


def ok(text: str) -> Finding:
    """Everything is fine."""
    return Finding("ok", text)


def warning(text: str, fix: str) -> Finding:
    """It works, but needs attention."""
    return Finding("warning", text, fix)


def problem(text: str, fix: str) -> Finding:
    """Something does not work, or soon will not."""
    return Finding("problem", text, fix)


def unknown(text: str, fix: str) -> Finding:
    """It could not be checked."""
    return Finding("unknown", text, fix)


def grade(value: float, at_warning: float, at_problem: float, text: str, fix: str, consequence: str = "") -> Finding:
    """The finding about a value that must not grow; a problem also states the consequence."""
    if value > at_problem:
        return problem(text + consequence, fix)
    return warning(text, fix) if value > at_warning else ok(text)


class CheckContext(Session):
    """What the checks work with: statements on the direct connection, and further connections if they need them.

    It lasts SECONDS from its creation. Raises UnreachableError.
    """

    def __init__(self, url: str, direct_url: str, environ: Mapping[str, str]) -> None:
        self.url = url
        self.direct_url = direct_url
        self.environ = environ
        self.keeps_session: bool | None = None  # whether direct_url does; None: not checked yet
        self.has_schema = True  # this and the next two are set by the check `server`
        self.sees_all = True  # whether the sessions of other accounts are visible
        self.account = ""  # the database role of this connection
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
        except sa.exc.DBAPIError as error:  # a pooler accepts connections even while its server is down
            self.close()
            reason = "no answer" if self.is_over else _first_line(error.orig or error)
            raise UnreachableError(f"cannot reach the database: {reason}") from None

    def connect(self, url: str, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection that ends with the examination. It prepares no statements, as it may lead to a pooler."""
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
        """For the statements of one check: read-only, with short timeouts."""
        with self._connection.begin():
            times = {"statement_timeout": f"{STATEMENT_SECONDS}s", "lock_timeout": f"{LOCK_SECONDS}s"}
            self.rows(query("doctor/limit_session"), **times)
            yield

    def hang_up(self) -> None:
        """Ends every wait for the database, even if the server has stopped answering."""
        self.is_over = True
        with self._lock:
            for connection in self._opened:
                with contextlib.suppress(psycopg.Error, OSError), _duplicate_socket(connection) as line:
                    line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connections."""
        self._alarm.cancel()
        for connection in self._opened:
            connection.close()
        self._engine.dispose()


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    find: Callable[[CheckContext], Iterable[Finding]]
    needs_schema: bool = False


def examine(context: CheckContext, checks: Sequence[Check]) -> list[tuple[str, Finding]]:
    """Runs the checks in order. An error in one becomes a finding and does not stop the others."""
    return [(check.name, _mask(finding)) for check in checks for finding in _run(context, check)]


def _run(context: CheckContext, check: Check) -> list[Finding]:
    if context.is_over:
        return [unknown(f"not checked: the {SECONDS:.0f} s for all checks are over", "run doctor again")]
    if check.needs_schema and not context.has_schema:
        return [unknown("not checked: the database has no Shoptalk schema", "see the check server")]
    try:
        with context.transaction():
            return list(check.find(context))
    except psycopg.errors.InsufficientPrivilege as error:
        return [unknown(f"not allowed: {_first_line(error)}", "grant shoptalk_inspector to this account")]
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
        return [problem(f"not finished within {STATEMENT_SECONDS} s: {_first_line(error)}", CHECK_LOCKS)]
    except Exception as error:
        if context.is_over:
            return [problem(f"no answer within {SECONDS:.0f} s", "check whether the server is overloaded or stopped")]
        reason = f"{type(error).__name__}: {_first_line(error)}"
        return [problem(f"the check itself failed: {reason}", "if no other finding explains it, please report a bug")]


def _duplicate_socket(connection: psycopg.Connection[tuple[Any, ...]]) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.pgconn.socket))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


def _mask(finding: Finding) -> Finding:
    fix = None if finding.fix is None else mask_passwords(finding.fix)
    return Finding(finding.status, mask_passwords(finding.text), fix)
