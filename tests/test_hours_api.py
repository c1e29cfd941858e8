"""Opening hours over REST: valid and invalid hours, the answers, and what a change reschedules."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.api import MakeClient, at_fault, problem
from tests.support.db import Connection

NO_DAY: dict[str, list[list[str]]] = {day: [] for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")}
BERLIN = {
    "timezone": "Europe/Berlin",
    "weekly": {**NO_DAY, "mon": [["09:00", "12:30"], ["14:00", "18:00"]], "fri": [["22:00", "02:00"]]},
    "exceptions": [
        {"date": "2026-12-24", "spans": [["09:00", "12:00"]]},
        {"date": "2026-12-25", "spans": []},
        {"yearly": "01-01", "name": "New Year", "spans": []},
    ],
}
URL = "/v1/stores/2/hours"


@pytest.fixture
def api(shop: Connection, database: str, make_client: MakeClient) -> FlaskClient:
    """A client of the app on the shop's database; it is three at night on a Monday, store 2 opens at nine."""
    stop_the_clock(shop, "2026-03-02 03:00")
    return make_client(database)


def stop_the_clock(db: Connection, instant: str) -> None:
    """Of this session, and of every one that begins from now on."""
    db.execute("select set_config('shoptalk.now', %s, false)", [instant + "+00"])
    db.execute("do $$ begin execute format('alter database %I set shoptalk.now = %L', current_database(),"
               " current_setting('shoptalk.now')); end $$")  # fmt: skip


def post(api: FlaskClient, conversation: int = 7, **fields: Any) -> Any:
    body = {"conversation_id": conversation, "client_id": 1, "operator_id": 2, "payload": "hi"} | fields
    return api.post("/v1/chats", json=body)


def chats(api: FlaskClient, conversation: int = 7) -> list[tuple[str, str, str, str | None]]:
    rows = api.get(f"/v1/conversations/{conversation}").get_json()["chat"]
    return [(chat["sender"], chat["payload"], chat["state"], chat["release_at"]) for chat in rows]


def test_hours_are_read_as_they_were_written(api: FlaskClient) -> None:
    assert api.get(URL).get_json() == {
        "timezone": "UTC", "weekly": {day: [["09:00", "14:00"]] for day in NO_DAY}, "exceptions": []}  # fmt: skip
    for wanted in (BERLIN, BERLIN | {"pace_per_minute": 5, "away_notice": "Later", "urgent": ["operator"]}):
        answer = api.put(URL, json=wanted)
        assert answer.status_code == 200, answer.text
        assert answer.get_json() == wanted | {
            "dry_run": False,
            "moved": {"chats": 0, "from": {"first": None, "last": None}, "to": {"first": None, "last": None}},
        }
        assert api.get(URL).get_json() == wanted
    api.put(URL, json=BERLIN)
    assert api.get(URL).get_json() == BERLIN, "what is left out is taken away"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "CET-1CEST"}, "timezone"),
        ({"timezone": None}, "timezone"),
        ({"weekly": {"mon": [["09:00", "24:01"]]}}, "weekly.mon[0][1]"),
        ({"weekly": {"mon": [["24:00", "24:00"]]}}, "weekly.mon[0][0]"),
        ({"weekly": {"mon": [["9:00", "12:00"]]}}, "weekly.mon[0][0]"),
        ({"weekly": {"mon": [["09:00"]]}}, "weekly.mon[0][1]"),
        ({"weekly": {"mon": [["09:00", "12:00"], ["11:59", "13:00"]]}}, "weekly.mon[1]"),
        ({"weekly": {"mon": [["22:00", "02:00"]], "tue": [["01:00", "03:00"]]}}, "weekly.tue[0]"),
        ({"weekly": {"sun": [["22:00", "02:00"]], "mon": [["01:59", "03:00"]]}}, "weekly.mon[0]"),
        ({"weekly": {"mon": [["00:00", "00:00"], ["00:00", "24:00"]]}}, "weekly.mon[1]"),
        ({"weekly": {"monday": []}}, "weekly.monday"),
        ({"hours": 5}, "hours"),
        ({"exceptions": [{"date": "2026-02-29", "spans": []}]}, "exceptions[0].date"),
        ({"exceptions": [{"date": 5, "spans": []}]}, "exceptions[0].date"),
        ({"exceptions": [{"yearly": "02-30", "spans": []}]}, "exceptions[0].yearly"),
        ({"exceptions": [{"spans": []}]}, "exceptions[0]"),
        ({"exceptions": [{"date": "2026-12-25"}]}, "exceptions[0].spans"),
        ({"exceptions": [{"yearly": "12-25", "spans": []}, {"yearly": "12-25", "spans": []}]}, "exceptions[1]"),
        ({"exceptions": [{"yearly": "12-25", "spans": [["09:00", "12:00"], ["10:00", "11:00"]]}]},
         "exceptions[0].spans[1]"),
        ({"pace_per_minute": 0}, "pace_per_minute"),
        ({"urgent": ["everybody"]}, "urgent[0]"),
        ({"away_notice": ""}, "away_notice"),
    ],
)  # fmt: skip
def test_invalid_hours_are_refused_by_their_path(api: FlaskClient, change: dict[str, Any], place: str) -> None:
    before = api.get(URL).get_json()
    assert at_fault(api.put(URL, json=BERLIN | change)) == {place}
    assert api.get(URL).get_json() == before


@pytest.mark.parametrize("weekly", [
    {"mon": [["09:00", "12:00"], ["12:00", "24:00"]], "tue": [["00:00", "01:00"]]},
    {"sun": [["22:00", "02:00"]], "mon": [["02:00", "02:00"]]},
    {"mon": [["09:00", "09:00"]], "tue": [["09:00", "09:00"]]},
])  # fmt: skip
def test_spans_may_touch(api: FlaskClient, weekly: dict[str, Any]) -> None:
    assert api.put(URL, json={"timezone": "UTC", "weekly": weekly}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/stores/99/hours", "/v1/stores/99/hours/explain", "/v1/stores/x/hours"])
def test_there_are_no_hours_without_a_store(api: FlaskClient, path: str) -> None:
    problem(api.get(path), 404)


def test_hours_for_an_unknown_store(api: FlaskClient) -> None:
    problem(api.put("/v1/stores/99/hours", json=BERLIN), 404)
    problem(api.post("/v1/stores/99/hours/holidays", json={"country": "DE", "years": [2026]}), 404)


def test_a_store_without_hours_is_never_open_and_says_so(api: FlaskClient, shop: Connection) -> None:
    api.put(URL, json={"timezone": "UTC", "weekly": {}})
    chat = post(api).get_json()
    assert (chat["state"], chat["release_at"]) == ("held", None)
    assert chats(api) == [("client", "hi", "held", None)]
    assert post(api, chat_id=chat["chat_id"]).get_json() == chat
    shop.execute("select send_chats()")
    states = {row["state"]: row for row in api.get("/v1/queue").get_json()["states"]}
    assert (states["held"]["chats"], states["held"]["next_release"]) == (1, None)
    explained = api.get(URL + "/explain").get_json()
    assert (explained["open"], explained["next_opening"], explained["next_closing"]) == (False, None, None)
    answer = api.put(URL, json={"timezone": "UTC", "weekly": {"tue": [["08:00", "09:00"]]}}).get_json()
    assert answer["moved"]["chats"] == 1
    assert answer["moved"]["from"]["first"] is None
    assert chats(api)[0][3] == "2026-03-03T08:00:00.000000Z"


@pytest.mark.parametrize(
    ("at", "is_open", "by", "opening", "closing"),
    [
        ("2026-12-21T10:00:00Z", True, {"day": "2026-12-21", "weekday": "mon", "exception": None,
                                        "span": ["09:00", "12:30"]}, "2026-12-21T13:00", "2026-12-21T11:30"),
        ("2026-12-26T00:30:00%2b01:00", False, {"day": "2026-12-26", "weekday": "sat", "exception": None, "span": None},
         "2026-12-28T08:00", "2026-12-28T11:30"),
        ("2026-12-19T00:30:00+01:00", True, {"day": "2026-12-18", "weekday": "fri", "exception": None,
                                             "span": ["22:00", "02:00"]}, "2026-12-21T08:00", "2026-12-19T01:00"),
        ("2026-12-24T10:00:00Z", True, {"day": "2026-12-24", "weekday": "thu", "exception": {"date": "2026-12-24"},
                                        "span": ["09:00", "12:00"]}, "2026-12-28T08:00", "2026-12-24T11:00"),
        ("2027-01-01T21:30:00Z", False, {"day": "2027-01-01", "weekday": "fri", "span": None,
                                         "exception": {"yearly": "01-01", "name": "New Year"}},
         "2027-01-04T08:00", "2027-01-04T11:30"),
    ],
)  # fmt: skip
def test_it_is_explained_why(
    api: FlaskClient, at: str, is_open: bool, by: dict[str, Any], opening: str, closing: str
) -> None:
    api.put(URL, json=BERLIN)
    found = api.get(f"{URL}/explain?at={at}").get_json()
    assert (found["open"], found["by"]) == (is_open, by)
    assert found["next_opening"] == opening + ":00.000000Z"
    assert found["next_closing"] == closing + ":00.000000Z"


@pytest.mark.parametrize("at", ["soon", "2026-12-24", "2026-12-24T10:00", "9999-12-31T23:59:59Z", ""])
def test_an_invalid_instant_is_refused(api: FlaskClient, at: str) -> None:
    assert at_fault(api.get(f"{URL}/explain?at={at}")) == {"at"}


def test_a_dry_run_says_what_the_change_then_does(api: FlaskClient, shop: Connection) -> None:
    for conversation in (7, 7, 8):
        post(api, conversation)
    later = {"timezone": "UTC", "weekly": {"mon": [["10:00", "14:00"]]}}
    counters = "select n_tup_upd from pg_stat_xact_user_tables where relname = 'chat_queue'"
    would = api.put(URL + "?dry_run=true", json=later).get_json()
    assert would["moved"] == {
        "chats": 3,
        "from": {"first": "2026-03-02T09:00:00.000000Z", "last": "2026-03-02T09:00:00.000000Z"},
        "to": {"first": "2026-03-02T10:00:00.000000Z", "last": "2026-03-02T10:00:00.000000Z"},
    }
    assert {chat[3] for chat in chats(api)} == {"2026-03-02T09:00:00.000000Z"}
    assert api.get(URL).get_json()["weekly"]["mon"] == [["09:00", "14:00"]]
    with shop.transaction():
        shop.execute("select change_hours(2, %s::json, true)", ['{"timezone": "UTC", "weekly": {}, "exceptions": []}'])
        assert shop.execute(counters).fetchone() == (0,), "a preview writes no queue row"
    assert api.put(URL, json=later).get_json() == would | {"dry_run": False}
    assert {chat[3] for chat in chats(api)} == {"2026-03-02T10:00:00.000000Z"}
    assert at_fault(api.put(URL + "?dry_run=maybe", json=later)) == {"dry_run"}


def test_wider_hours_let_go_what_is_held(api: FlaskClient, shop: Connection) -> None:
    post(api)
    api.put(URL, json={"timezone": "UTC", "weekly": {"mon": [["02:00", "14:00"]]}})
    shop.execute("select send_chats()")
    assert [chat[2] for chat in chats(api)] == ["sent"]


def test_public_holidays_become_exceptions_once_and_not_over_the_owners_own(api: FlaskClient) -> None:
    api.put(URL, json=BERLIN)
    body = {"country": "DE", "subdivision": "BY", "years": [2026]}
    would = api.post(URL + "/holidays?dry_run=true", json=body).get_json()
    assert api.get(URL).get_json() == BERLIN
    done = api.post(URL + "/holidays", json=body).get_json()
    assert done == would | {"dry_run": False}
    days = {day.get("date", day.get("yearly")): day for day in done["exceptions"]}
    assert days["2026-12-24"] == BERLIN["exceptions"][0]
    assert days["2026-10-03"]["spans"] == []
    assert days["2026-10-03"]["name"]
    assert "2026-01-06" in days, "Bavaria has it, Germany has not"
    assert api.post(URL + "/holidays", json=body).get_json()["exceptions"] == done["exceptions"]


@pytest.mark.parametrize(("change", "place"), [({"country": "XX"}, "country"), ({"subdivision": "Mars"}, "subdivision"),
                                               ({"years": []}, "years"), ({"years": [1]}, "years[0]")])  # fmt: skip
def test_unknown_holidays(api: FlaskClient, change: dict[str, Any], place: str) -> None:
    assert at_fault(api.post(URL + "/holidays", json={"country": "DE", "years": [2026]} | change)) == {place}


def test_one_away_notice_a_conversation_and_closed_period(api: FlaskClient, shop: Connection) -> None:
    hours = {"timezone": "Europe/Berlin", "weekly": {"mon": [["10:00", "15:00"]], "tue": [["10:00", "15:00"]]}}
    api.put(URL, json=hours | {"away_notice": "{{ username }}, we are back at {{ opens_at }}. {{ operator }}"})
    first = post(api)
    assert (first.get_json()["seq"], first.get_json()["state"]) == (2, "held")
    assert post(api).get_json()["seq"] == 3
    assert post(api, sender="operator", conversation=8).get_json()["seq"] == 1, "an operator needs no answer"
    shop.execute("select send_chats()")
    opening = "2026-03-02T09:00:00.000000Z"
    notice = "Ann, we are back at 2026-03-02 10:00. Otto"
    assert chats(api) == [("operator", notice, "sent", None), *[("client", "hi", "held", opening)] * 2]
    stop_the_clock(shop, "2026-03-02 09:00")
    shop.execute("select send_chats()")
    assert {chat[2] for chat in chats(api)} == {"sent"}
    stop_the_clock(shop, "2026-03-02 20:00")
    shop.execute("select enqueue_chat(7, 1, 2, 'again')")
    assert shop.execute(
        "select array_agg(payload order by seq) from chats where conversation_id = 7 and seq > 3"
    ).fetchone() == (["Ann, we are back at 2026-03-03 10:00. Otto", "again"],)


def test_a_repeated_request_gives_no_second_notice(api: FlaskClient, shop: Connection) -> None:
    api.put(URL, json={"timezone": "UTC", "weekly": {"mon": [["09:00", "10:00"]]}, "away_notice": "Later"})
    first = post(api, chat_id=5)
    again = post(api, chat_id=5)
    assert (again.status_code, again.get_json()) == (200, first.get_json())
    many = [{"conversation_id": 7, "client_id": 1, "operator_id": 2, "payload": "x"}] * 3
    assert [chat["seq"] for chat in api.post("/v1/chats", json=many).get_json()] == [3, 4, 5]
    assert shop.execute("select last_seq from conversations").fetchone() == (5,)


def test_urgent_is_for_those_whom_the_store_allows(api: FlaskClient, shop: Connection) -> None:
    assert at_fault(post(api, urgent=True), 403) == {"urgent"}
    assert shop.execute("select count(*) from conversations").fetchone() == (0,)
    hours = api.get(URL).get_json()
    api.put(URL, json=hours | {"urgent": ["operator"]})
    held = post(api).get_json()
    assert held["state"] == "held"
    assert at_fault(post(api, urgent=True), 403) == {"urgent"}
    assert post(api, urgent=True, sender="operator").get_json()["state"] == "queued"
    post(api, 8)
    assert post(api, payload="after").get_json()["state"] == "held"
    shop.execute("select send_chats()")
    assert [chat[2] for chat in chats(api)] == ["sent", "sent", "held"], "the one before it went along"
    assert [chat[2] for chat in chats(api, 8)] == ["held"]


def test_a_held_chat_can_be_edited_until_it_goes(api: FlaskClient, shop: Connection) -> None:
    number = post(api).get_json()["chat_id"]
    edited = api.patch(f"/v1/chats/{number}", json={"payload": "{{ username }} says"}).get_json()
    assert (edited["payload"], edited["state"]) == ("Ann says", "held")
    assert at_fault(api.patch(f"/v1/chats/{number}", json={"payload": "x" * 300})) == {"payload"}
    stop_the_clock(shop, "2026-03-02 09:00")
    shop.execute("select send_chats()")
    assert at_fault(api.patch(f"/v1/chats/{number}", json={"payload": "late"}), 409) == {"chat_id"}
    assert at_fault(api.patch("/v1/chats/12345", json={"payload": "x"}), 404) == {"chat_id"}
    assert chats(api)[0][1:3] == ("Ann says", "sent")


def test_quiet_hours_hold_what_the_store_says_and_nothing_else(api: FlaskClient, shop: Connection) -> None:
    url = "/v1/clients/1/quiet-hours"
    problem(api.get(url), 404)
    night = {"timezone": "America/New_York", "from": "22:00", "to": "07:00"}
    stop_the_clock(shop, "2026-03-02 10:00")  # five in the morning there
    shop.execute("select enqueue_chat(9, 1, 2, 'before', 'operator')")
    assert api.put(url, json=night).get_json() == night
    assert api.get(url).get_json() == night
    shop.execute("select enqueue_chat(7, 1, 2, 'late', 'operator'), enqueue_chat(8, 1, 2, 'mine', 'client')")
    shop.execute("select send_chats()")
    dawn = "2026-03-02T12:00:00.000000Z"
    assert [chats(api, number)[0][2:] for number in (7, 8, 9)] == [("held", dawn), ("sent", None), ("held", dawn)]
    shop.execute("select enqueue_chat(9, 1, 2, 'I am awake', 'client')")
    shop.execute("select send_chats(), send_chats()")
    assert [chat[2] for chat in chats(api, 9)] == ["sent", "sent"]
    assert api.delete(url).status_code == 200
    shop.execute("select send_chats()")
    assert [chats(api, number)[0][2] for number in (7, 8, 9)] == ["sent"] * 3
    assert at_fault(api.put(url, json=night | {"to": "22:00"})) == {"to"}
    problem(api.put("/v1/clients/77/quiet-hours", json=night), 404)
