"""Serves the web pages: static files without data. The pages request the data with the reader's credential."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path
from typing import cast

from flask import Blueprint, Response, request
from werkzeug.security import safe_join

from api.wire.needs import needs
from api.wire.problems import Problem
from api.wire.requests import id_or_none

pages = Blueprint("pages", __name__)

FOLDER = Path(__file__).parent.parent / "static"
# No inline scripts or styles and nothing from other hosts: text injected into a page is never executed.
POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors "
# RapiDoc, which shows the API reference, needs inline styles; the rule for scripts stays the same.
INLINE_STYLES = "; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
NO_SUCH_PAGE = "This page does not exist."


@pages.get("/desk")
@needs("open")
def desk() -> Response:
    return _file("desk.html")


@pages.get("/desk/hours")
@needs("open")
def hours() -> Response:
    return _file("hours.html")


@pages.get("/chat/<conversation_id>")
@needs("open")
def chat_window(conversation_id: str) -> Response:
    if id_or_none(conversation_id) is None:
        raise Problem(404, NO_SUCH_PAGE)
    return _file("chat.html", framed_by="*")  # shops embed it in their own pages


@pages.get("/docs")
@needs("open")
def docs() -> Response:
    return _file("docs.html", extra_policy=INLINE_STYLES)


@pages.get("/embed.js")
@needs("open")
def embed() -> Response:
    return _file("embed.js")


@pages.get("/static/<path:name>")
@needs("open")
def static_file(name: str) -> Response:
    return _file(name)


def _file(name: str, framed_by: str = "'none'", extra_policy: str = "") -> Response:
    """The file with an ETag of its content, or 304 if the browser has it already. Raises Problem 404."""
    path = safe_join(str(FOLDER), name)
    if path is None or not os.path.isfile(path):  # unlike Path.is_file(), False for invalid names
        raise Problem(404, NO_SUCH_PAGE)
    response = Response(Path(path).read_bytes(), mimetype=mimetypes.guess_type(name)[0])
    response.add_etag()
    response.cache_control.no_cache = True  # cache it, but revalidate it on every request
    response.headers["Content-Security-Policy"] = POLICY + framed_by + extra_policy
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return cast(Response, response.make_conditional(request))
