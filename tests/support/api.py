"""The API in the test's own process: problems, credentials, and a good request for every route."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

MakeClient = Callable[..., FlaskClient]


def problem(answer: TestResponse, status: int) -> dict[str, Any]:
    """The problem, once it has the shape that every problem has."""
    body: dict[str, Any] = answer.get_json(force=True)
    assert answer.status_code == status, body
    assert answer.content_type == "application/problem+json"
    assert body["status"] == status
    assert {"type", "title", "status", "detail", "message"} <= body.keys() <= {
        "type", "title", "status", "detail", "message", "errors"}  # fmt: skip
    assert all(isinstance(body[name], str) and body[name] for name in ("type", "title", "detail", "message"))
    return body


def at_fault(answer: TestResponse, status: int = 400) -> set[str]:
    return {error["field"] for error in problem(answer, status).get("errors", [])}


MASTER = "master"


HOURS = {
    "timezone": "UTC",
    "weekly": {day: [["00:00", "00:00"]] for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")},
}


HOOK = {"kind": "webhook", "url": "https://hook.example/crm"}


CHAT = {"conversation_id": 7, "client_id": 1, "operator_id": 1, "payload": "new"}


# What is asked for in store 1: the values of the paths, and a good body for each call that takes one. A new route
# needs its line here.
PATH = {"conversation_id": "7", "chat_id": "70", "store_id": "1", "operator_id": "1", "client_id": "1", "name": "crm"}


BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/app/addClient/"): {"client_id": 1, "username": "Ann Sesame", "location": "Oslo"},
    ("POST", "/v1/clients"): {"client_id": 1, "username": "Ann Sesame", "location": "Oslo"},
    ("POST", "/app/addOperator/"): {"operator_id": 11, "operator_name": "x", "operator_group": "x", "store_id": 1},
    ("POST", "/v1/operators"): {"operator_id": 11, "operator_name": "x", "operator_group": "x", "store_id": 1},
    ("POST", "/app/startChat/"): CHAT,
    ("POST", "/v1/chats"): CHAT,
    ("PATCH", "/v1/chats/<chat_id>"): {"payload": "edited"},
    ("PUT", "/v1/conversations/<conversation_id>/read"): {"reader": "client", "seq": 1},
    ("POST", "/v1/conversations/<conversation_id>/typing"): {"sender": "client"},
    ("PUT", "/v1/stores/<store_id>/hours"): HOURS,
    ("POST", "/v1/stores/<store_id>/hours/holidays"): {"country": "DE", "years": [2027]},
    ("PUT", "/v1/clients/<client_id>/quiet-hours"): {"timezone": "UTC", "from": "22:00", "to": "07:00"},
    ("PUT", "/v1/stores/<store_id>/channels/<name>"): HOOK,
    ("POST", "/v1/stores/<store_id>/channels/<name>/replay"): {"cursor": 0},
    ("POST", "/v1/channels/<name>/replay"): {"cursor": 0},
    ("POST", "/v1/tokens"): {"conversation_id": 7},
}


QUERIES = {"/v1/stream": "?conversation_id=7"}


# An id that is chosen by the caller and is another store's already: that it is taken is all that is said.
TAKEN = {"/app/addClient/", "/v1/clients"}


class Call(NamedTuple):
    method: str
    rule: str
    need: Any

    def path(self) -> str:
        return re.sub(r"<(?:\w+:)?(\w+)>", lambda match: PATH[match[1]], self.rule) + QUERIES.get(self.rule, "")


def calls(client: FlaskClient) -> list[Call]:
    """Every verb of every route that asks for a credential."""
    app = client.application
    found = [
        Call(method, rule.rule, app.view_functions[rule.endpoint].need)  # type: ignore[attr-defined]
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"OPTIONS"})
    ]
    return [call for call in found if call.need.scope != "open"]


def ask(client: FlaskClient, call: Call, credential: str | None) -> TestResponse:
    headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
    body = {"json": BODIES[call.method, call.rule]} if (call.method, call.rule) in BODIES else {}
    return client.open(call.path(), method=call.method, headers=headers, **body)


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def token(client: FlaskClient, key: str = MASTER, **of: Any) -> str:
    answer = client.post("/v1/tokens", json=of, headers=bearer(key))
    assert answer.status_code == 201, answer.text
    return str(answer.get_json()["token"])
