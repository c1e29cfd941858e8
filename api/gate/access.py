"""What each route needs of its caller, and the check of it before the view runs.

Every view says it, by `describe(…, needs=…, of=…)` or `@access.needs(…)`; an app with one that does not refuses to
start. Whether an object is the caller's is decided here too, by what the path names. The rule of the answers: 401,
nobody known; 403, the credential may not do this, whatever the object; 404, there is no such object for this caller,
word for word as if there were none, so that ids of others cannot be told from ids of nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from flask import Flask, current_app, g, request

from api import context
from api.gate import origins
from api.gate.keys import ANYBODY, Caller
from api.gate.limits import LARGEST_TOKEN_BODY_BYTES
from api.push.feed import KEYS
from api.wire.problems import Problem, field_errors
from api.wire.requests import id_or_none
from sql.database import query
from sql.fields import ChatIn
from sql.tables import chat_states, chats, conversations, operators

View = TypeVar("View", bound=Callable[..., Any])

OPEN = "open"  # a scope: no credential needed
ANY = "any"  # a scope: whichever the credential has
SCOPES = frozenset({OPEN, ANY, "send", "read", "admin"})

# What a route can be about, and whether a token may ask for it. "nothing": the same for everybody; "probe": asked all
# day; "all": every store at once; "body": named in the body, which the view checks.
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
# The kinds that a path names, each by `<kind_id>`.
IN_PATH = {kind: kind for kind in ("store", "operator", "client", "conversation", "chat")} | {"opening": "store"}
SMALLEST_TOKEN_CHAT_ID = 2**52  # below it chat_ids are for keys: no device can take one that a shop will use


@dataclass(frozen=True)
class Need:
    """A scope, and the kind of object that is looked up in the request."""

    scope: str
    of: str


def needs(scope: str, of: str = "nothing") -> Callable[[View], View]:
    """Says what a view needs of its caller. Raises ValueError for what is none of the above."""
    if scope not in SCOPES or of not in TOKENS_MAY:
        raise ValueError(f"no need is called {scope!r} of {of!r}")

    def attach(view: View) -> View:
        view.need = Need(scope, of)  # type: ignore[attr-defined]
        return view

    return attach


def outlives_database(view: View) -> View:
    """Says that a view is for whoever was last known while the keys cannot be read: it has to tell just that."""
    view.outlives_database = True  # type: ignore[attr-defined]
    return view


def need_of(view: object) -> Need | None:
    """What the view has said."""
    return getattr(view, "need", None)


def install(app: Flask) -> None:
    """Lets nobody in without what the view needs. Raises RuntimeError where a view does not say it, or not truly."""
    for rule in app.url_map.iter_rules():
        need = need_of(app.view_functions[rule.endpoint])
        if need is None:
            raise RuntimeError(f"who may call {rule.endpoint}? Say needs= in describe(), or use @access.needs()")
        if need.of in IN_PATH and f"{IN_PATH[need.of]}_id" not in rule.arguments:
            raise RuntimeError(f"{rule.endpoint} says that it is of one {need.of}, but its path names none")
    app.before_request(_admit)


def caller() -> Caller:
    """Who asks."""
    return cast(Caller, g.caller)


def speak_as(party: str, name: str) -> None:
    """Raises Problem 403, naming the field, where a token speaks as the other party."""
    if caller().party not in (None, party):
        raise forbidden(name, f"this token speaks as {caller().party}")


def forbidden(name: str, reason: str) -> Problem:
    """What is answered where a field says what the caller may not."""
    return Problem(403, f"{name}: {reason}", field_errors(name, reason))


def _admit() -> None:
    view = current_app.view_functions.get(request.endpoint or "")
    # An address that is none, or a wrong verb, is told to those with a credential only.
    need = need_of(view) or Need(ANY, "nothing")
    if need.scope == OPEN:
        if need.of != "probe":
            context.rates().count_address()
        return
    g.caller = _identify(getattr(view, "outlives_database", False))
    context.rates().count(caller())
    if caller().party is not None:
        request.max_content_length = LARGEST_TOKEN_BODY_BYTES
    _insist_on_scope(need)
    if caller().within:
        _insist_on_reach(need)
    if need.of == "chats in the body":
        context.pressure().insist()


def _insist_on_scope(need: Need) -> None:
    if need.scope != ANY and need.scope not in caller().scopes:
        raise Problem(403, f"this needs a key with the scope {need.scope}")
    if caller().party is not None and not TOKENS_MAY[need.of]:
        raise Problem(403, "this needs a key, not a token")
    if caller().within and need.of == "all":
        raise Problem(403, "this needs a key of all stores")


def _identify(outlives_database: bool) -> Caller:
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    # WSGI gives headers as Latin-1.
    given = credential.strip().encode("latin-1").decode(errors="surrogateescape") if scheme.lower() == "bearer" else ""
    found = context.keys().caller(given, outlives_database)
    if found is None:
        context.rates().count_address()
        raise Problem(401, "send a key or a token that is known here as `Authorization: Bearer …`")
    if found is ANYBODY:
        origins.refuse_other_sites()
    return found


# Objects ---------------------------------------------------------------------------------------------


def no_such(kind: str) -> Problem:
    """What is answered for an object that is not there, or not there for the caller."""
    return Problem(404, f"There is no {kind} with the specified id.")


def _insist_on_reach(need: Need) -> None:
    """Raises Problem 404 where the object that the path or query names is beyond the caller."""
    if need.of == "stream":
        _insist_on_stream()
    if need.of not in IN_PATH:
        return
    kind = IN_PATH[need.of]
    number = id_or_none((request.view_args or {}).get(f"{kind}_id"), chat=kind == "chat")
    if number is None:
        raise no_such(kind)
    thing = _opening(number) if need.of == "opening" else _thing(kind, number)
    if thing is None or not caller().reaches(thing):
        raise no_such(kind)
    if kind == "chat":
        if not caller().sees(thing["sender"], thing["state"]):
            raise no_such(kind)
        if need.scope == "send" and caller().party not in (None, thing["sender"]):
            raise Problem(403, "only who wrote a chat may change it")


def _insist_on_stream() -> None:
    for kind in (name.removesuffix("_id") for name in KEYS if name in request.args):
        number = id_or_none(request.args[f"{kind}_id"])
        if number is None:
            raise no_such(kind)
        thing = _thing(kind, number)
        if kind == "client" and "operator_id" not in caller().within:
            # Of its chats the stream shows those within reach; but only who may write to it may say that it is there.
            is_ours = "as" not in request.args or parties_store(number, None).has_client
            thing = {**caller().within, "client_id": number} if is_ours else None
        if thing is None and kind == "conversation" and "conversation_id" in caller().within:
            thing = {**caller().within, "conversation_id": number}  # it has not begun; the stream shows what fits
        if not caller().reaches(thing):
            raise no_such(kind)
    if (party := request.args.get("as")) is not None:
        speak_as(party, "as")


def parties_store(client_id: int | None, operator_id: int | None) -> sa.Row[Any]:
    """has_client: whether the caller's store may write to the client; store_id: the operator's, if it is that store."""
    of = {"client_id": client_id, "operator_id": operator_id, "store_id": caller().within.get("store_id")}
    with context.engine().connect() as connection:
        return connection.execute(query("parties_store"), of).one()


def _thing(kind: str, number: int) -> Mapping[str, Any] | None:
    """The members of the object that callers are limited by; None: it is not there."""
    v = conversations.c
    columns = [v.conversation_id, v.client_id, v.operator_id, v.store_id]
    match kind:
        case "store":
            return {"store_id": number}
        case "client":
            return {"client_id": number}
        case "operator":
            select = sa.select(operators.c.operator_id, operators.c.store_id).where(operators.c.operator_id == number)
        case "conversation":
            select = sa.select(*columns).where(v.conversation_id == number)
        case _:
            select = (
                sa.select(*columns, chats.c.sender, chat_states.c.state)
                .join_from(chats, conversations, chats.c.conversation_id == v.conversation_id)
                .join(chat_states, chat_states.c.chat_id == chats.c.chat_id)
                .where(chats.c.chat_id == number)
            )
    with context.engine().connect() as connection:
        row = connection.execute(select).mappings().one_or_none()
    return None if row is None else dict(row)


def _opening(store_id: int) -> Mapping[str, Any]:
    """A store as to its opening: every party of it may know, and a client of no one store of any."""
    asker = caller()
    return {**asker.within, "store_id": store_id}


# Chats to send ---------------------------------------------------------------------------------------


def objections_to(wanted: list[ChatIn]) -> list[Problem | None]:
    """Why the caller may not send each of the chats; None: may."""
    asker = caller()
    if not asker.within:
        return [None] * len(wanted)
    values: dict[str, Any] = {name: asker.within.get(name) for name in ("store_id", "client_id", "operator_id")}
    for name in ("client_id", "operator_id", "conversation_id"):
        values[f"{name}s"] = sorted({getattr(chat, name) for chat in wanted} - {None})
    with context.engine().connect() as connection:
        row = connection.execute(query("reachable"), values).one()
    reach = {name: set(numbers) for name, numbers in row._mapping.items()}
    return [_objection(asker, chat, reach) for chat in wanted]


def _objection(asker: Caller, chat: ChatIn, reach: Mapping[str, set[int]]) -> Problem | None:
    for name in ("conversation_id", "client_id", "operator_id"):
        if name in asker.within and getattr(chat, name) != asker.within[name]:
            return forbidden(name, f"this token is for {asker.within[name]}")
    if asker.party not in (None, chat.sender):
        return forbidden("sender", f"this token speaks as {asker.party}")
    if asker.party is not None and chat.chat_id is not None and chat.chat_id < SMALLEST_TOKEN_CHAT_ID:
        return forbidden("chat_id", f"with a token, one from {SMALLEST_TOKEN_CHAT_ID} on")
    for kind in ("client", "operator"):
        number = getattr(chat, f"{kind}_id")
        if number not in reach[f"{kind}_ids"]:
            reason = f"there is no {kind} {number}"
            return Problem(404, reason, field_errors(f"{kind}_id", reason))
    # A token's holder goes on with conversations of theirs; the numbers of new ones are not theirs to choose.
    is_new = chat.conversation_id is not None and chat.conversation_id not in reach["conversation_ids"]
    if is_new and asker.party is not None and "conversation_id" not in asker.within:
        reason = f"there is no conversation {chat.conversation_id}"
        return Problem(404, reason, field_errors("conversation_id", reason))
    return None


def insist_on_store(store_id: int, name: str = "store_id") -> None:
    """Raises Problem 403, naming the field, where the caller's key is of another store."""
    if caller().within.get("store_id", store_id) != store_id:
        raise forbidden(name, f"this key is for store {caller().within['store_id']}")
