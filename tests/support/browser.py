"""Pages in a real Chromium."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.support.processes import Start
from tests.support.web import Web

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


# Violations that the browser reports: a script that the policy had to stop is a hole somewhere else.
WATCH = "window.refusals = []; addEventListener('securitypolicyviolation', (e) => refusals.push(e.violatedDirective))"


WIDE = {"width": 1280, "height": 800}

expect.set_options(timeout=15_000)


class Site:
    """A web process and a worker on a database, and the pages that are open on them."""

    def __init__(self, browser: Browser, start: Start, database: str, **env: str) -> None:
        self.browser, self.faults = browser, list[str]()
        self.web = Web(start, database, **env)
        self.worker = start("worker", DATABASE_URL=database)
        self.pages: list[Page] = []

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.web.port}{path}"

    def open(self, path: str, **how: Any) -> Page:
        """The page in a browser profile of its own; in UTC unless told otherwise."""
        page = self.browser.new_context(**{"viewport": WIDE, "timezone_id": "UTC"} | how).new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: self.faults.append(dialog.message))
        page.add_init_script(WATCH)
        page.goto(self.address(path) if path.startswith("/") else path)
        self.pages.append(page)
        return page

    def close(self) -> None:
        for page in self.pages:
            self.faults += page.evaluate("refusals")
            page.context.close()
        assert not self.faults
