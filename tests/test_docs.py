"""The API's reference at /docs, in a real Chromium: it is complete, calls can be tried, and nothing leaves the host."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.api import MakeClient
from tests.support.browser import Site

pytestmark = pytest.mark.system


def test_the_reference_shows_every_call_tries_one_and_calls_no_other_host(site: Site) -> None:
    asked: list[str] = []
    page = site.open("/healthz")
    page.on("request", lambda request: asked.append(request.url))
    page.goto(site.address("/docs"))
    described = page.evaluate("fetch('/openapi.json').then((answer) => answer.json())")
    calls = [
        f"{method}-{path}".translate(str.maketrans("{}", "--"))
        for path, methods in described["paths"].items() for method in methods
    ]  # fmt: skip
    assert len(calls) > 40
    links = page.locator("rapi-doc .nav-bar-path")
    expect(links).to_have_count(len(calls))
    assert sorted(links.evaluate_all("(links) => links.map((link) => link.dataset.contentId)")) == sorted(calls)

    page.locator("rapi-doc [data-content-id='put-/v1/stores/-store_id-/hours']").click()  # lists of lists: the hardest
    expect(page.get_by_role("heading", name="Replace a store's hours")).to_be_visible()
    page.locator("rapi-doc [data-content-id='get-/readyz']").click()
    call = page.locator("rapi-doc .expanded-endpoint-body", has_text="Whether the process can reach its database")
    with page.expect_response("**/readyz") as answer:
        call.get_by_role("button", name="TRY").click()
    assert answer.value.status == 200
    expect(call.get_by_text('"ok"').last).to_be_visible()
    assert not [url for url in asked if not url.startswith((site.address("/"), "data:"))]


def test_the_description_and_its_page_need_no_key(database: str, make_client: MakeClient) -> None:
    client = make_client(database, api_keys=("k",))
    assert client.get("/v1/queue").status_code == 401
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 200
    policy = client.get("/docs").headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "script-src" not in policy  # so default-src holds for scripts: none inline
