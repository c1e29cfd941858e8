"""Pages of other sites: those on the list may call the API, the others' browsers are told not to."""

from __future__ import annotations

import urllib.parse

from flask import Flask, Response, current_app, request

from api.wire.problems import Problem
from sql.settings import is_loopback

ALLOWED_HEADERS = "Authorization, Content-Type, Last-Event-ID"
SHOWN_HEADERS = "Idempotent-Replayed, Link, Location, Retry-After"
PREFLIGHT_SECONDS = 600


def install(app: Flask, origins: frozenset[str]) -> None:
    """Answers preflights of those origins before anybody asks for a key, and names them in the answers.

    Exact names only, which is all there is to it: libraries for it match patterns, and have been fooled by them.
    """
    app.extensions["shoptalk origins"] = origins
    app.before_request(_answer_preflight)
    app.after_request(_add_headers)


def refuse_other_sites() -> None:
    """Raises Problem 403 for a change that a page of another site asks for, and for whatever is asked of another name.

    For where no key is asked for: otherwise any page that a developer opens could send chats to this machine; and one
    whose name is made to lead here (DNS rebinding) is of the same site to the browser, and could read all of it.
    """
    try:
        name = urllib.parse.urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        name = ""
    # Browsers always say which languages they want, and a page's script cannot keep them from it; programs do not.
    if "Accept-Language" in request.headers and not (is_loopback(name) or name.endswith(".localhost")):
        raise Problem(403, "without keys only localhost and 127.0.0.1 are answered: make a key (docs/security.md)")
    is_change = request.method not in ("GET", "HEAD", "OPTIONS")
    if is_change and request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not _listed():
        raise Problem(403, "a page of another site asks for this: put its origin into SHOPTALK_CORS_ORIGINS")


def _listed() -> bool:
    return request.headers.get("Origin") in current_app.extensions["shoptalk origins"]


def _answer_preflight() -> Response | None:
    if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers or not _listed():
        return None
    return Response(status=204)


def _add_headers(response: Response) -> Response:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    if current_app.extensions["shoptalk origins"]:
        response.vary.add("Origin")
    if _listed():
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Expose-Headers"] = SHOWN_HEADERS
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, PATCH, DELETE"
            response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
            response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
    return response
