"""The check of every request before its view runs: the scope, and whether the object is within the caller's reach.

An app with a view that does not declare its needs (`api.wire.needs`) does not start. The object is looked up by the id
in the path. The answers: 401, no valid credential; 403, the credential may not do this, whatever the object; 404, there
is no such object for this caller. The text of a 404 is the same whether the object is another caller's or does not
exist, so callers cannot find out which ids are in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import sqlalchemy as sa
from flask import Flask, current_app, g, request

from api import context
from api.gate import origins
from api.gate.keys import ANONYMOUS, Caller
from api.gate.limits import LARGEST_TOKEN_BODY_BYTES
from api.wire.fields import TOPIC_FIELDS
from api.wire.needs import ANY, IN_PATH, OPEN, TOKENS_MAY, Need, need_of
from api.wire.problems import Problem, field_errors, no_such
from api.wire.requests import id_or_none
from sql.database import query
from sql.fields import ChatIn
from sql.tables import chat_states, chats, conversations, operators

# chat_ids below this are for keys, so that a device cannot take one that the shop is going to use.
SMALLEST_TOKEN_CHAT_ID = 2**52


def install(app: Flask) -> None:
    """Checks every request. Raises RuntimeError where a view does not declare its needs, or not correctly."""
    for rule in app.url_map.iter_rules():
        need = need_of(app.view_functions[rule.endpoint])
        if need is None:
            raise RuntimeError(f"{rule.endpoint} does not declare its needs: pass needs= to describe() or use @needs()")
        if need.of in IN_PATH and f"{IN_PATH[need.of]}_id" not in rule.arguments:
            raise RuntimeError(f"{rule.endpoint} declares of={need.of!r}, but its path has no <{IN_PATH[need.of]}_id>")
    app.before_request(_admit)


def caller() -> Caller:
    """The caller of this request."""
    return cast(Caller, g.caller)


def require_party(party: str, name: str) -> None:
    """Raises Problem 403, naming the field, where the caller's token is for the other party."""
    if caller().party not in (None, party):
        raise forbidden(name, f"this token is for the {caller().party}")


def require_store(store_id: int, name: str = "store_id") -> None:
    """Raises Problem 403, naming the field, where the caller's key is for another store."""
    if caller().within.get("store_id", store_id) != store_id:
        raise forbidden(name, f"this key is for store {caller().within['store_id']}")


def forbidden(name: str, reason: str) -> Problem:
    """The problem of a field whose value the caller may not use."""
    return Problem(403, f"{name}: {reason}", field_errors(name, reason))


def _admit() -> None:
    view = current_app.view_functions.get(request.endpoint or "")
    # Only callers with a credential learn that an address or a method does not exist.
    need = need_of(view) or Need(ANY, "nothing")
    if need.scope == OPEN:
        if need.of != "probe":
            context.rates().count_address()
        return
    g.caller = _identify(getattr(view, "works_without_database", False))
    context.rates().count(caller())
    if caller().party is not None:
        request.max_content_length = LARGEST_TOKEN_BODY_BYTES
    _check_scope(need)
    if caller().within:
        _check_reach(need)
    if need.of == "chats in the body":
        context.pressure().check()


def _check_scope(need: Need) -> None:
    if need.scope != ANY and need.scope not in caller().scopes:
        raise Problem(403, f"this needs a key with the scope {need.scope}")
    if caller().party is not None and not TOKENS_MAY[need.of]:
        raise Problem(403, "this needs a key, not a token")
    if caller().within and need.of == "all":
        raise Problem(403, "this needs a key for all stores")


def _identify(works_without_database: bool) -> Caller:
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    # WSGI decodes headers as Latin-1.
    given = credential.strip().encode("latin-1").decode(errors="surrogateescape") if scheme.lower() == "bearer" else ""
    found = context.keys().caller(given, works_without_database)
    if found is None:
        context.rates().count_address()
        raise Problem(401, "missing or unknown API key or token: send one as `Authorization: Bearer …`")
    if found is ANONYMOUS:
        origins.refuse_other_sites()
    return found


# Objects ---------------------------------------------------------------------------------------------


def _check_reach(need: Need) -> None:
    """Raises Problem 404 where the object that the path or query names is not within the caller's reach."""
    if need.of == "stream":
        _check_stream()
    if need.of not in IN_PATH:
        return
    kind = IN_PATH[need.of]
    number = id_or_none((request.view_args or {}).get(f"{kind}_id"), chat=kind == "chat")
    if number is None:
        raise no_such(kind)
    found = _opening(number) if need.of == "opening" else _read_object(kind, number)
    if found is None or not caller().reaches(found):
        raise no_such(kind)
    if kind == "chat":
        if not caller().sees(found["sender"], found["state"]):
            raise no_such(kind)
        if need.scope == "send" and caller().party not in (None, found["sender"]):
            raise Problem(403, "only the sender of a chat may change it")


def _check_stream() -> None:
    for kind in (name.removesuffix("_id") for name in TOPIC_FIELDS if name in request.args):
        number = id_or_none(request.args[f"{kind}_id"])
        if number is None:
            raise no_such(kind)
        found = _read_object(kind, number)
        if kind == "client" and "operator_id" not in caller().within:
            # The stream shows only the client's chats within reach. To announce the client's presence (?as=), the
            # caller must also be allowed to write to the client.
            is_ours = "as" not in request.args or parties_store(number, None).has_client
            found = {**caller().within, "client_id": number} if is_ours else None
        if found is None and kind == "conversation" and "conversation_id" in caller().within:
            # It has not begun; the stream shows its chats once they are within reach.
            found = {**caller().within, "conversation_id": number}
        if not caller().reaches(found):
            raise no_such(kind)
    if (party := request.args.get("as")) is not None:
        require_party(party, "as")


def parties_store(client_id: int | None, operator_id: int | None) -> sa.Row[Any]:
    """has_client: whether the caller may write to the client; store_id: the operator's store, if within reach."""
    of = {"client_id": client_id, "operator_id": operator_id, "store_id": caller().within.get("store_id")}
    with context.engine().connect() as connection:
        return connection.execute(query("api/parties_store"), of).one()


def _read_object(kind: str, number: int) -> Mapping[str, Any] | None:
    """The members of the object that limit which callers reach it; None: it does not exist."""
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
    """Whether a store is open is visible to every party that belongs to it, and to clients of all stores."""
    return {**caller().within, "store_id": store_id}


# Chats to send ---------------------------------------------------------------------------------------


def check_chats(wanted: list[ChatIn]) -> list[Problem | None]:
    """For each of the chats, the reason why the caller may not send it; None: allowed."""
    current = caller()
    if not current.within:
        return [None] * len(wanted)
    values: dict[str, Any] = {name: current.within.get(name) for name in ("store_id", "client_id", "operator_id")}
    for name in ("client_id", "operator_id", "conversation_id"):
        values[f"{name}s"] = sorted({getattr(chat, name) for chat in wanted} - {None})
    with context.engine().connect() as connection:
        row = connection.execute(query("api/reachable"), values).one()
    reach = {name: set(numbers) for name, numbers in row._mapping.items()}
    return [_check_chat(current, chat, reach) for chat in wanted]


def _check_chat(current: Caller, chat: ChatIn, reach: Mapping[str, set[int]]) -> Problem | None:
    for name in ("conversation_id", "client_id", "operator_id"):
        if name in current.within and getattr(chat, name) != current.within[name]:
            return forbidden(name, f"this token is for {current.within[name]}")
    if current.party not in (None, chat.sender):
        return forbidden("sender", f"this token is for the {current.party}")
    if current.party is not None and chat.chat_id is not None and chat.chat_id < SMALLEST_TOKEN_CHAT_ID:
        return forbidden("chat_id", f"must be at least {SMALLEST_TOKEN_CHAT_ID} with a token")
    for kind in ("client", "operator"):
        number = getattr(chat, f"{kind}_id")
        if number not in reach[f"{kind}_ids"]:
            reason = f"there is no {kind} {number}"
            return Problem(404, reason, field_errors(f"{kind}_id", reason))
    # A token may continue its party's conversations, but not choose the id of a new one.
    is_new = chat.conversation_id is not None and chat.conversation_id not in reach["conversation_ids"]
    if is_new and current.party is not None and "conversation_id" not in current.within:
        reason = f"there is no conversation {chat.conversation_id}"
        return Problem(404, reason, field_errors("conversation_id", reason))
    return None
