"""Every error answer is made here: RFC 9457 problem details, also of database errors."""

from __future__ import annotations

import contextlib
import http
from dataclasses import dataclass, field
from typing import Any, cast

import gevent
import psycopg
import sqlalchemy as sa
from flask import Flask, Response, current_app, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from sql.errors import http_status
from sql.log import Log

log = Log("api")

RETRY_AFTER_SECONDS = 1
DRAIN_SECONDS = 30  # for the rest of a rejected body

# The input field that a constraint checks.
FIELD_OF_CONSTRAINT = {
    "chats_chat_id": "chat_id",
    "chats_payload": "payload",
    "chats_sender": "sender",
    "stores_timezone": "timezone",
    "clients_xmpp_jid": "xmpp_jid",
    "operators_xmpp_jid": "xmpp_jid",
}


@dataclass
class Problem(Exception):
    """An error to answer with. `errors` names the input fields at fault, each with the reason."""

    status: int
    detail: str
    errors: list[dict[str, str]] = field(default_factory=list)
    retry_after_seconds: int | None = None  # of 429; 503 always has one

    def as_dict(self) -> dict[str, Any]:
        """The members of the answer; `message` is for the brief's first clients."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "message": self.detail,
        }
        return body | ({"errors": self.errors} if self.errors else {})

    def response(self) -> Response:
        """The answer, `application/problem+json`."""
        response = cast(Response, current_app.json.response(self.as_dict()))
        response.status_code = self.status
        response.content_type = "application/problem+json"
        if self.status == 503 or self.retry_after_seconds:
            response.headers["Retry-After"] = str(self.retry_after_seconds or RETRY_AFTER_SECONDS)
        if self.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response


def field_errors(field_name: str | None, reason: str) -> list[dict[str, str]]:
    """The `errors` member for one field, empty where no field is known."""
    return [{"field": field_name, "reason": reason}] if field_name else []


def no_such(kind: str) -> Problem:
    """The problem of an object that does not exist, or not for the caller."""
    return Problem(404, f"There is no {kind} with the specified id.")


def of_sqlstate(sqlstate: str, reason: str, field_name: str | None) -> Problem:
    """The problem of a database error."""
    status = http_status(sqlstate)
    if status == 503:
        return Problem(503, "the database cannot do this now, try again")
    return Problem(status, reason, field_errors(field_name, reason))


def of_database_error(error: psycopg.Error) -> Problem:
    """The same, of psycopg's exception."""
    diagnostic = error.diag
    name = diagnostic.column_name or FIELD_OF_CONSTRAINT.get(diagnostic.constraint_name or "")
    return of_sqlstate(error.sqlstate or "08000", diagnostic.message_primary or str(error), name)


def register(app: Flask) -> None:
    """Makes the app answer every error as a problem."""

    @app.errorhandler(Problem)
    def problem(error: Problem) -> Response:
        return error.response()

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        if error.code is None or error.code < 400:
            return Response(error.get_response(request.environ))  # type: ignore[arg-type]  # redirects
        if error.code == 413:
            _drain_body()
        response = Problem(error.code, error.description or error.name).response()
        response.headers.extend((k, v) for k, v in error.get_headers() if k not in ("Content-Type", "Content-Length"))
        return response

    @app.errorhandler(sa.exc.DBAPIError)
    def database_error(error: sa.exc.DBAPIError) -> Response:
        cause = error.orig if isinstance(error.orig, psycopg.Error) else psycopg.OperationalError(str(error))
        answer = of_database_error(cause)
        if answer.status == 503:
            log("database_unavailable", sqlstate=cause.sqlstate, reason=cause)
        return answer.response()

    @app.errorhandler(sa.exc.TimeoutError)
    @app.errorhandler(sa.exc.InvalidRequestError)  # the pool's, after several closed connections in a row
    @app.errorhandler(psycopg.Error)
    def unreachable(error: Exception) -> Response:
        log("database_unavailable", reason=error)
        return Problem(503, "the database cannot be reached now, try again").response()


def _drain_body(limit_bytes: int = 64 * 2**20) -> None:
    """Reads the rest of a body that was too large, so that the client can read the answer instead of a reset."""
    stream = request.environ["wsgi.input"]
    with gevent.Timeout(DRAIN_SECONDS, False), contextlib.suppress(ParseException, OSError):
        while limit_bytes > 0 and (chunk := stream.read(65536)):
            limit_bytes -= len(chunk)
