"""The REST API: the brief's four operations, their twins under /v1, and what bad input is answered with."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient

from api.app import LARGEST_BODY_BYTES, create_app
from sql.keys import require_keys
from sql.settings import BadSetting, Settings
from tests.support.api import MakeClient, at_fault, problem
from tests.support.db import Connection, on

ANN = {"client_id": 1, "username": "Ann", "location": "Oslo"}
OLGA = {"operator_id": 1, "operator_name": "Olga", "operator_group": "day", "store_id": 5}
CHAT = {"chat_id": 9, "conversation_id": 7, "payload": "hi {{ username }}", "client_id": 1, "operator_id": 1}
UTC = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


@pytest.fixture
def shop_client(client: FlaskClient) -> FlaskClient:
    """A client of the API with Ann and Olga added."""
    assert client.post("/v1/clients", json=ANN).status_code == 201
    assert client.post("/v1/operators", json=OLGA).status_code == 201
    return client


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("how", ["json", "data", "strings", "multipart"])
def test_the_four_operations_as_the_brief_has_them(client: FlaskClient, slash: str, how: str) -> None:
    def post(path: str, fields: dict[str, Any]) -> Any:
        body: dict[str, Any] = {
            "json": {"json": fields},
            "data": {"data": fields},
            "strings": {"json": {k: str(v) for k, v in fields.items()}},
            "multipart": {"data": fields, "content_type": "multipart/form-data"},
        }[how]
        answer = client.post(path + slash, **body)
        assert answer.status_code == 200, answer.text
        return answer.get_json()

    assert post("/app/addClient", ANN) == ANN
    assert post("/app/addOperator", OLGA) == OLGA
    chat = post("/app/startChat", {k: v for k, v in CHAT.items() if k != "operator_id"} | {"opertor_id": 1})
    assert post("/app/startChat", CHAT | {"operator_id": " 1", "opertor_id": "01"}) == chat
    date = chat.pop("utc_date")
    assert re.fullmatch(UTC, date)
    assert chat == {
        "chat_id": 9, "conversation_id": 7, "seq": 1, "sender": "client", "payload": "hi Ann", "client_id": 1,
        "operator_id": 1, "state": "queued", "release_at": None, "status": 200,
        "message": "success, your message has been sent",
    }  # fmt: skip
    answer = client.get("/app/getConversation/7" + slash)
    assert answer.status_code == 200
    del chat["message"], chat["status"]
    assert answer.get_json() == {
        "conversation": {
            "conversation_id": 7, "store_id": 5, "operator_id": 1, "client_id": 1, "operator_group": "day",
            "chat": [chat | {"utc_date": date}],
        },
        "status": 200,
    }  # fmt: skip


def test_a_chat_outside_the_hours_is_held_and_says_until_when(
    database: str, db: Connection, make_client: MakeClient
) -> None:
    db.execute("do $$ begin execute format('alter database %I set shoptalk.now = %L', current_database(),"
               " '2026-03-02 03:00+00'); end $$")  # fmt: skip
    client = make_client(database, hours=(dt.time(9), dt.time(14)))
    client.post("/v1/clients", json=ANN)
    client.post("/v1/operators", json=OLGA)
    chat = client.post("/app/startChat/", json=CHAT).get_json()
    assert (chat["state"], chat["release_at"]) == ("held", "2026-03-02T09:00:00.000000Z")
    assert "when the store opens" in chat["message"]
    again = client.post("/app/startChat/", json=CHAT)
    assert (again.get_json(), again.headers["Idempotent-Replayed"]) == (chat, "true")


@pytest.mark.parametrize("path", ["/v1/clients", "/app/addClient/"])
def test_adding_the_same_again_is_a_replay_and_other_content_a_conflict(client: FlaskClient, path: str) -> None:
    client.post(path, json=ANN)
    again = client.post(path, json=ANN)
    assert (again.status_code, again.get_json(), again.headers["Idempotent-Replayed"]) == (200, ANN, "true")
    assert at_fault(client.post(path, json=ANN | {"location": "Rome"}), 409) == {"client_id"}


def test_a_refused_operator_makes_no_store(shop_client: FlaskClient, db: Connection) -> None:
    assert at_fault(shop_client.post("/v1/operators", json=OLGA | {"store_id": 6}), 409) == {"operator_id"}
    assert db.execute("select array_agg(store_id) from stores").fetchone() == ([5],)


def test_a_chat_is_created_where_it_can_be_read(shop_client: FlaskClient) -> None:
    answer = shop_client.post("/v1/chats", json={"payload": "hi", "client_id": 1, "operator_id": 1})
    assert answer.status_code == 201
    chat = shop_client.get(answer.headers["Location"]).get_json()
    assert chat == answer.get_json() | {"sent_at": None}
    assert chat["conversation_id"] > 1_000_000_000


def test_the_same_chat_again_is_a_replay_and_other_content_a_conflict(shop_client: FlaskClient) -> None:
    first = shop_client.post("/v1/chats", json=CHAT)
    again = shop_client.post("/v1/chats", json=CHAT)
    assert (again.status_code, again.get_json(), again.headers["Idempotent-Replayed"]) == (
        200, first.get_json(), "true")  # fmt: skip
    assert at_fault(shop_client.post("/v1/chats", json=CHAT | {"payload": "x"}), 409) == {"chat_id"}


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"client_id": 2}, 404, "client_id"),
        ({"operator_id": 2}, 404, "operator_id"),
        ({"chat_id": 10, "client_id": 3}, 409, "conversation_id"),
        ({"opertor_id": 2}, 400, "opertor_id"),
    ],
)
def test_unknown_and_other_parties(shop_client: FlaskClient, change: dict[str, int], status: int, field: str) -> None:
    shop_client.post("/v1/chats", json=CHAT | {"chat_id": 8})
    shop_client.post("/v1/clients", json=ANN | {"client_id": 3})
    answer = shop_client.post("/app/startChat/", json=CHAT | change)
    assert at_fault(answer, status) == {field}


def test_a_list_is_answered_one_by_one_in_order(shop_client: FlaskClient) -> None:
    items = [CHAT, {"payload": 5}, CHAT, 7, CHAT | {"chat_id": 10, "client_id": 2}, CHAT | {"chat_id": 11}]
    results = shop_client.post("/v1/chats", json=items).get_json()
    assert [result["status"] for result in results] == [201, 400, 200, 400, 404, 201]
    assert [results[i]["seq"] for i in (0, 2, 5)] == [1, 1, 2]
    assert results[4]["errors"][0]["field"] == "client_id"


@pytest.mark.parametrize("length", [0, 1001])
def test_a_list_has_one_to_a_thousand(shop_client: FlaskClient, length: int) -> None:
    problem(shop_client.post("/v1/chats", json=[CHAT] * length), 400)


def test_cancelling(shop_client: FlaskClient, db: Connection) -> None:
    shop_client.post("/v1/chats", json=CHAT)
    for _ in range(2):
        answer = shop_client.delete("/v1/chats/9")
        assert (answer.status_code, answer.get_json()["state"]) == (200, "cancelled")
    shop_client.post("/v1/chats", json=CHAT | {"chat_id": 10})
    db.execute("select send_chats()")
    assert at_fault(shop_client.delete("/v1/chats/10"), 409) == {"chat_id"}
    assert shop_client.get("/v1/chats/10").get_json()["sent_at"]
    problem(shop_client.delete("/v1/chats/11"), 404)


def test_paging_through_a_conversation(shop_client: FlaskClient) -> None:
    shop_client.post("/v1/chats", json=[CHAT | {"chat_id": n} for n in range(1, 8)])
    path, seqs = "/v1/conversations/7/chats?limit=3", []
    while path:
        answer = shop_client.get(path)
        seqs.append([chat["seq"] for chat in answer.get_json()["chat"]])
        link = re.fullmatch('<(.*)>; rel="next"', answer.headers.get("Link", ""))
        path = link[1] if link else ""
    assert seqs == [[1, 2, 3], [4, 5, 6], [7]]


def test_a_conversation_longer_than_a_page_comes_whole(shop_client: FlaskClient) -> None:
    for start in (0, 1000, 2000):
        shop_client.post("/v1/chats", json=[CHAT | {"chat_id": start + n} for n in range(1, 1001)])
    for length in (3000, 3001):
        chats = shop_client.get("/v1/conversations/7").get_json()["chat"]
        assert [chat["seq"] for chat in chats] == list(range(1, length + 1))
        shop_client.post("/v1/chats", json=CHAT | {"chat_id": 5000})


@pytest.mark.parametrize(
    "query", ["after=-1", "limit=0", "limit=1001", "limit=x", "after=1e3", "after=99999999999", "limit="]
)
def test_a_bad_page_names_the_parameter(shop_client: FlaskClient, query: str) -> None:
    shop_client.post("/v1/chats", json=CHAT)
    assert at_fault(shop_client.get("/v1/conversations/7/chats?" + query)) == {query.split("=")[0]}


@pytest.mark.parametrize(
    "path",
    ["/app/getConversation/{}/", "/v1/conversations/{}", "/v1/conversations/{}/chats", "/v1/chats/{}",
     "/v1/stores/{}", "/v1/stores/{}/conversations", "/v1/operators/{}/conversations"],
)  # fmt: skip
@pytest.mark.parametrize("number", ["1", "0", "-1", "x", "1.0", "²", "9" * 30, "%00", "' or 1=1"])
def test_what_is_not_there_is_not_found(client: FlaskClient, path: str, number: str) -> None:
    problem(client.get(path.format(number)), 404)


def test_the_queue_by_state(shop_client: FlaskClient, db: Connection) -> None:
    shop_client.post("/v1/chats", json=[CHAT | {"chat_id": n} for n in range(1, 4)])
    db.execute("select send_chats(1)")
    shop_client.delete("/v1/chats/3")
    states = {row["state"]: row for row in shop_client.get("/v1/queue").get_json()["states"]}
    assert {name: row["chats"] for name, row in states.items()} == {
        "held": 0, "queued": 1, "sent": 1, "failed": 0, "cancelled": 1}  # fmt: skip
    assert re.fullmatch(UTC, states["queued"]["oldest"])


# Bad input, for every route that takes a body --------------------------------------------------------

TAKES = {
    "/app/addClient/": ANN,
    "/v1/clients": ANN,
    "/app/addOperator/": OLGA,
    "/v1/operators": OLGA,
    "/app/startChat/": CHAT | {"sender": "client"},
    "/v1/chats": CHAT | {"sender": "client"},
    "/v1/conversations/7/read": {"reader": "client", "seq": 1},
    "/v1/conversations/7/typing": {"sender": "client"},
}
METHODS = {"/v1/conversations/7/read": "PUT"}  # the others take a POST
OPTIONAL = {"/app/startChat/": {"chat_id", "sender"}, "/v1/chats": {"chat_id", "sender", "conversation_id"}}
BAD_IDS = [
    None,
    True,
    1.5,
    -1.0,
    1e300,
    "",
    " ",
    "x",
    "1.0",
    "1e3",
    [],
    {},
    0,
    -1,
    2**31,
    2**63,
    10**400,
    "2147483648",
    "٣",
    "1\0",
]
BAD_TEXTS = [None, 5, True, [], {}, "", "a\0b", "\ud800", "\udfff", "x" * 301]


def bad_values() -> list[Any]:
    cases = []
    for path, good in TAKES.items():
        for name, value in good.items():
            if name not in OPTIONAL.get(path, ()):
                cases.append((path, name, ...))
            bad: list[Any] = BAD_TEXTS if isinstance(value, str) else BAD_IDS
            if name == "chat_id":
                bad = [2**53 + 1 if v in (2**31, "2147483648") else v for v in bad if v is not None]
            if name == "conversation_id" and path == "/v1/chats":
                bad = [v for v in bad if v is not None]
            cases += [(path, name, value) for value in bad]
    return cases


@pytest.fixture(scope="module")
def robust(server: str, template: str, make_client: MakeClient) -> Any:
    """A client for calls that must store nothing: one database for all of them."""
    name = template + "_robust"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name} template {template}")
        client = make_client(on(server, name))
        client.post("/v1/clients", json=ANN)
        client.post("/v1/operators", json=OLGA)
        yield client
        with psycopg.connect(on(server, name)) as db:
            counts = db.execute(
                "select (select count(*) from clients), (select count(*) from operators),"
                " (select count(*) from stores), (select count(*) from chats), (select count(*) from conversations),"
                " (select count(*) from chat_queue)"
            ).fetchone()
        assert counts == (1, 1, 1, 0, 0, 0)
        admin.execute(f"drop database {name} with (force)")


@pytest.mark.parametrize(("path", "name", "value"), bad_values())
def test_each_bad_field_is_named_and_nothing_stored(robust: FlaskClient, path: str, name: str, value: Any) -> None:
    body = TAKES[path] | {name: value}
    if value is ...:
        del body[name]
    method = METHODS.get(path, "POST")
    answer = robust.open(path, method=method, data=json.dumps(body), content_type="application/json")
    assert at_fault(answer) == {name}
    if isinstance(value, str) and not re.search("[\ud800-\udfff]", value):
        assert at_fault(robust.open(path, method=method, data=body)) == {name}


@pytest.mark.parametrize("path", TAKES)
@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"null", "application/json", 400),
        (b'"x"', "application/json", 400),
        (b"7", "application/json", 400),
        (b"[7]", "application/json", None),
        (b"\xff\xfe{", "application/json", 400),
        (b'{"a": NaN}', "application/json", 400),
        (b'{"client_id": ' + b"9" * 5000 + b"}", "application/json", 400),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b" " * 10_000_000, "application/json", 413),
        (b"a=" + b"x" * 10_000_000, "application/x-www-form-urlencoded", 413),
        (b"", "application/x-www-form-urlencoded", 400),
        (b"a=caf%E9", "application/x-www-form-urlencoded", 400),
        (b"a=caf\xe9", "application/x-www-form-urlencoded", 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xe9\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            400,
        ),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400),
        (b"x", "multipart/form-data", 400),
        (b"<a/>", "text/xml", 415),
        (b"{}", "", 415),
        (b"{}", "a/b/c;;;=", 415),
    ],
)
def test_invalid_bodies(robust: FlaskClient, path: str, body: bytes, content_type: str, status: int | None) -> None:
    answer = robust.open(path, method=METHODS.get(path, "POST"), data=body, content_type=content_type)
    if status is None:  # a list, which /v1/chats takes and answers item by item
        status = 200 if path == "/v1/chats" else 400
    if status == 200:
        assert [item["status"] for item in answer.get_json()] == [400]
    else:
        problem(answer, status)


def test_every_route_answers_a_wrong_verb_with_a_problem(client: FlaskClient) -> None:
    for rule in client.application.url_map.iter_rules():
        path = re.sub("<.*?>", "1", rule.rule)
        problem(client.open(path, method="PROPFIND"), 405)
    problem(client.get("/nowhere"), 404)


def test_the_largest_list_fits_the_largest_body(shop_client: FlaskClient) -> None:
    chat = CHAT | {"chat_id": 2**53, "conversation_id": 2**31 - 1, "payload": "\U0001f642" * 299}
    assert len(json.dumps([chat] * 1000)) < LARGEST_BODY_BYTES
    results = shop_client.post("/v1/chats", json=[chat] * 1000).get_json()
    assert [r["status"] for r in results] == [201] + [200] * 999


def test_with_keys_set_nothing_but_probes_pages_and_the_description_answers_without_one(
    database: str, make_client: MakeClient
) -> None:
    client = make_client(database, api_keys=("first", "second"))
    for rule in client.application.url_map.iter_rules():
        path = re.sub("<.*?>", "1", rule.rule)
        for method in rule.methods or ():
            status = client.open(path, method=method).status_code
            open_ = rule.rule in ("/healthz", "/readyz", "/openapi.json") or is_page(rule.endpoint)
            assert (status == 401) == (not open_), rule
    headers: Callable[[str], dict[str, str]] = lambda key: {"Authorization": f"Bearer {key}"}  # noqa: E731
    assert client.get("/v1/queue", headers=headers("second")).status_code == 200
    assert client.get("/v1/queue", headers=headers("secon")).status_code == 401
    assert client.get("/v1/queue", headers={"Authorization": "second"}).status_code == 401


def is_page(endpoint: str) -> bool:
    return endpoint.startswith("pages.")


@pytest.mark.parametrize(
    "environ",
    [{"PORT": "x"}, {"PORT": "70000"},
     {"WEB_CONCURRENCY": "abc"},
     {"SHOPTALK_HOURS": "9-14"}, {"SHOPTALK_HOURS": "09:00-24:01"}, {"SHOPTALK_TIMEZONE": "Mars/Olympus"},
     {"SHOPTALK_TIMEZONE": "../etc"}, {"SHOPTALK_API_KEYS": "x,CHANGE_ME"},
     {"SHOPTALK_PROXIES": "-1"}, {"SHOPTALK_KEY_PER_MINUTE": "1e3"},
     {"SHOPTALK_CORS_ORIGINS": "*"}, {"SHOPTALK_CORS_ORIGINS": "https://a.example/"},
     {"SHOPTALK_CORS_ORIGINS": "https://a.example, b.example"}],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(BadSetting, match=next(iter(environ))):
        Settings.from_environment(environ)


def test_settings_do_not_show_their_secrets() -> None:
    settings = Settings.from_environment({"SHOPTALK_API_KEYS": " ab, cd ,", "DATABASE_URL": "postgresql://u:pass@h/d"})
    assert settings.api_keys == ("ab", "cd")
    assert not re.search("ab|cd|pass", repr(settings).replace("webhook", ""))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", "10.0.0.1"])
def test_other_machines_come_in_only_where_keys_are_asked_for(database: str, db: Connection, host: str) -> None:
    exposed = Settings(database_url=database, host=host)
    for refuses in (require_keys, create_app):
        with pytest.raises(BadSetting, match=rf"HOST={re.escape(host)}, .*keys make"):
            refuses(exposed)
    db.execute("select make_key('old')")
    db.execute("select revoke_key('old')")
    with pytest.raises(BadSetting):
        require_keys(exposed)
    require_keys(Settings(database_url=database, host=host, api_keys=("a",)))
    require_keys(Settings(database_url=database, host="127.0.0.1"))
    db.execute("select make_key('shop')")
    require_keys(exposed)
