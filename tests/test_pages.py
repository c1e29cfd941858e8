"""How the pages are served: their headers, their caching, and nothing but them."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from api.views import pages
from tests.support.api import MakeClient, problem

FILES = {"/desk": "desk.html", "/chat/7": "chat.html", "/embed.js": "embed.js", "/static/desk.css": "desk.css"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pages, beside a file outside of it."""
    folder = tmp_path / "static"
    folder.mkdir()
    for name in FILES.values():
        (folder / name).write_text(name)
    (tmp_path / "secret").write_text("secret")
    monkeypatch.setattr(pages, "FOLDER", folder)
    return folder


@pytest.mark.parametrize("path", FILES)
def test_a_page_comes_without_a_key_and_runs_nothing_inline(
    folder: Path, database: str, make_client: MakeClient, path: str
) -> None:
    answer = make_client(database, api_keys=("first",)).get(path)
    assert (answer.status_code, answer.text) == (200, FILES[path])
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert "unsafe" not in str(policy)
    # Only the client's window is for other sites to embed.
    assert policy["frame-ancestors"] == ("*" if path == "/chat/7" else "'none'")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_an_unchanged_page_is_not_sent_again(folder: Path, client: FlaskClient) -> None:
    first = client.get("/desk")
    again = client.get("/desk", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert "no-cache" in again.headers["Cache-Control"]
    (folder / "desk.html").write_text("changed")
    assert client.get("/desk", headers={"If-None-Match": first.headers["ETag"]}).text == "changed"


@pytest.mark.parametrize(
    "path",
    ["/static/../secret", "/static/%2e%2e/secret", "/static/..%2fsecret", "/static/x/%2e%2e/%2e%2e/secret",
     "/static/none", "/static/%00", "/static/" + "x" * 5000, "/chat/x", "/chat/0", "/static/."],
)  # fmt: skip
def test_nothing_but_the_pages_is_served(folder: Path, client: FlaskClient, path: str) -> None:
    problem(client.get(path), 404)
