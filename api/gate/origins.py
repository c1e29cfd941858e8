"""Pages of other sites: those listed in SHOPTALK_CORS_ORIGINS may call the API; browsers block the others."""

from __future__ import annotations

import urllib.parse

from flask import Flask, Response, current_app, request

from api.wire.problems import Problem
from sql.settings import is_loopback

ALLOWED_HEADERS = "Authorization, Content-Type, Last-Event-ID"
EXPOSED_HEADERS = "Idempotent-Replayed, Link, Location, Retry-After"
PREFLIGHT_SECONDS = 600


def install(app: Flask, origins: frozenset[str]) -> None:
    """Answers preflights of these origins, before a key is required, and adds the CORS headers to their answers.

    Origins are compared exactly: libraries for this match patterns, which has led to bypasses.
    """
    app.extensions["shoptalk origins"] = origins
    app.before_request(_answer_preflight)
    app.after_request(_add_headers)


def refuse_other_sites() -> None:
    """Raises Problem 403 for a change requested by a page of another site, and for requests under another host name.

    For servers without keys. Otherwise any page that a developer opens could send chats to this machine; and a page
    whose host name is made to resolve to this machine (DNS rebinding), which the browser takes for the same site, could
    read everything.
    """
    try:
        name = urllib.parse.urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        name = ""
    # Browsers always send Accept-Language, and a page's script cannot prevent it; programs do not send it.
    if "Accept-Language" in request.headers and not (is_loopback(name) or name.endswith(".localhost")):
        raise Problem(403, "without API keys only localhost and 127.0.0.1 are served: make a key (docs/security.md)")
    is_change = request.method not in ("GET", "HEAD", "OPTIONS")
    if is_change and request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not _is_listed():
        raise Problem(403, "requested by a page of another site: add its origin to SHOPTALK_CORS_ORIGINS")


def _is_listed() -> bool:
    return request.headers.get("Origin") in current_app.extensions["shoptalk origins"]


def _answer_preflight() -> Response | None:
    if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers or not _is_listed():
        return None
    return Response(status=204)


def _add_headers(response: Response) -> Response:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    if current_app.extensions["shoptalk origins"]:
        response.vary.add("Origin")
    if _is_listed():
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, PATCH, DELETE"
            response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
            response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
    return response
