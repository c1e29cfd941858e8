"""What a route needs of its caller, declared at its view; `api.gate.access` checks it before the view runs.

A view declares it by `describe(…, needs=…, of=…)` or `@needs(…)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sql.fields import SCOPES

View = TypeVar("View", bound=Callable[..., Any])

OPEN = "open"  # a scope: no credential is required
ANY = "any"  # a scope: any credential will do

# What a route is about, and whether a token may call it. "nothing": the same for every caller; "probe": called all day,
# so not limited; "all": every store at once; "body": named in the body, and checked by the view.
TOKENS_MAY = {
    "nothing": True,
    "probe": True,
    "all": False,
    "store": False,
    "opening": True,  # of a store: whether it is open now
    "operator": True,
    "client": True,
    "conversation": True,
    "chat": True,
    "stream": True,
    "chats in the body": True,
    "body": False,
}
# The kinds of object that a path names, each by `<kind_id>`.
IN_PATH = {kind: kind for kind in ("store", "operator", "client", "conversation", "chat")} | {"opening": "store"}


@dataclass(frozen=True)
class Need:
    """A scope, and the kind of object that the request is about."""

    scope: str
    of: str


def needs(scope: str, of: str = "nothing") -> Callable[[View], View]:
    """Declares what a view needs of its caller. Raises ValueError for an unknown scope or kind."""
    if scope not in {OPEN, ANY, *SCOPES} or of not in TOKENS_MAY:
        raise ValueError(f"unknown scope {scope!r} or kind {of!r}")

    def attach(view: View) -> View:
        view.need = Need(scope, of)  # type: ignore[attr-defined]
        return view

    return attach


def works_without_database(view: View) -> View:
    """Declares that the last known keys let callers in while the keys cannot be read: the view reports just that."""
    view.works_without_database = True  # type: ignore[attr-defined]
    return view


def need_of(view: object) -> Need | None:
    """The view's declaration."""
    return getattr(view, "need", None)
