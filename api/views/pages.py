"""The pages that people open: static files that hold no data and ask for it with the reader's key."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path
from typing import cast

from flask import Blueprint, Response, request
from werkzeug.security import safe_join

from api.gate.access import needs
from api.wire.problems import Problem
from api.wire.requests import path_id

pages = Blueprint("pages", __name__)

FOLDER = Path(__file__).parent.parent / "static"
# Nothing inline and nothing from elsewhere: text that got into a page by mistake is not executed.
POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors "
# The viewer of the reference has styles in its elements' attributes; of scripts all stays as it is.
STYLED_INLINE = "; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
NO_SUCH_PAGE = "There is no such page."


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
    path_id(conversation_id, NO_SUCH_PAGE)
    return _file("chat.html", framed_by="*")  # a shop embeds it in pages of its own


@pages.get("/docs")
@needs("open")
def docs() -> Response:
    return _file("docs.html", also=STYLED_INLINE)


@pages.get("/embed.js")
@needs("open")
def embed() -> Response:
    return _file("embed.js")


@pages.get("/static/<path:name>")
@needs("open")
def static_file(name: str) -> Response:
    return _file(name)


def _file(name: str, framed_by: str = "'none'", also: str = "") -> Response:
    """The file, with an ETag of its content by which an unchanged one is answered 304. Raises Problem 404."""
    path = safe_join(str(FOLDER), name)
    if path is None or not os.path.isfile(path):  # unlike Path's, false for names that are none
        raise Problem(404, NO_SUCH_PAGE)
    response = Response(Path(path).read_bytes(), mimetype=mimetypes.guess_type(name)[0])
    response.add_etag()
    response.cache_control.no_cache = True  # keep it, but ask each time whether it is still right
    response.headers["Content-Security-Policy"] = POLICY + framed_by + also
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return cast(Response, response.make_conditional(request))
