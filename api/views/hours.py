"""Opening hours of stores and quiet hours of clients: reading, changing, explaining, public holidays."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response, request

from api.context import engine, reply
from api.wire import answers
from api.wire.fields import parse
from api.wire.hours_fields import HolidaysIn, HoursIn, QuietHoursIn
from api.wire.openapi import describe
from api.wire.problems import Problem, field_errors, no_such
from api.wire.requests import body, path_id, query_flag
from sql.database import STATEMENT_TIMEOUT_SECONDS, call, query

hours = Blueprint("hours", __name__)

# Moving a million held chats takes about ten seconds on a small machine.
CHANGE_TIMEOUT_SECONDS = 300
DRY_RUN = {"dry_run": {"type": "boolean"}}
FIRST_YEAR, LAST_YEAR = 1900, 2200


@hours.get("/v1/stores/<store_id>/hours")
@describe("Read a store's hours", needs="read", of="store", gives=answers.Hours, problems=(404,))
def get_hours(store_id: str) -> Response:
    number = path_id(store_id, "store")
    with engine().connect() as connection:
        found = connection.execute(*call("hours_of", store_id=number)).scalar_one()
    if found is None:
        raise no_such("store")
    return reply(found)


@hours.put("/v1/stores/<store_id>/hours")
@describe(
    "Replace a store's hours and move its held chats; with dry_run only report what would move",
    needs="admin",
    of="store",
    takes=HoursIn,
    json_only=True,
    gives=answers.ChangedHours,
    query=DRY_RUN,
    problems=(400, 404, 413, 415),
)
def put_hours(store_id: str) -> Response:
    number = path_id(store_id, "store")
    wanted = parse(HoursIn, body()).model_dump_json()
    return _change_and_report("change_hours", store_id=number, hours=wanted)


@hours.post("/v1/stores/<store_id>/hours/holidays")
@describe(
    "Close a store on a country's public holidays, except on days that already have an exception",
    needs="admin",
    of="store",
    takes=HolidaysIn,
    json_only=True,
    gives=answers.ChangedHours,
    query=DRY_RUN,
    problems=(400, 404, 413, 415, 501),
)
def post_holidays(store_id: str) -> Response:
    number = path_id(store_id, "store")
    days = _public_holidays(parse(HolidaysIn, body()))
    return _change_and_report("close_on", store_id=number, days=list(days), names=list(days.values()))


@hours.get("/v1/stores/<store_id>/hours/explain")
@describe(
    "Explain why a store is open or closed at an instant, and when it next opens and closes",
    needs="read",
    of="store",
    gives=answers.HoursExplained,
    query={"at": {"type": "string", "format": "date-time"}},
    problems=(400, 404),
)
def explain_hours(store_id: str) -> Response:
    number = path_id(store_id, "store")
    with engine().connect() as connection:
        found = connection.execute(*call("explain_hours", store_id=number, at=_instant("at"))).scalar_one()
    for name in ("at", "paused_at", "next_opening", "next_closing"):
        found[name] = found[name] and answers.instant(dt.datetime.fromisoformat(found[name]))
    return reply(found)


@hours.get("/v1/clients/<client_id>/quiet-hours")
@describe("Read a client's quiet hours", needs="read", of="client", gives=answers.QuietHours, problems=(404,))
def get_quiet_hours(client_id: str) -> Response:
    return reply(_quiet_hours(path_id(client_id, "client")))


@hours.put("/v1/clients/<client_id>/quiet-hours")
@describe(
    "Set a client's quiet hours: chats from operators wait for their end too",
    needs="send",
    of="client",
    takes=QuietHoursIn,
    json_only=True,
    gives=answers.QuietHours,
    problems=(400, 404, 413, 415),
)
def put_quiet_hours(client_id: str) -> Response:
    number = path_id(client_id, "client")
    _set_quiet_hours(client_id=number, **parse(QuietHoursIn, body()).model_dump())
    return reply(_quiet_hours(number))


@hours.delete("/v1/clients/<client_id>/quiet-hours")
@describe("Remove a client's quiet hours", needs="send", of="client", gives=answers.QuietHours, problems=(404,))
def delete_quiet_hours(client_id: str) -> Response:
    number = path_id(client_id, "client")
    before = _quiet_hours(number)
    _set_quiet_hours(client_id=number, timezone=None, starts=None, ends=None)
    return reply(before)


def _change_and_report(function: str, **values: Any) -> Response:
    """Changes the hours, or with dry_run rolls back; answers the hours after it and the chats that moved."""
    dry_run = query_flag("dry_run")
    timeout = sa.text("select set_config('statement_timeout', :timeout, false)")
    with engine().connect() as connection:
        connection.execute(timeout, {"timeout": f"{CHANGE_TIMEOUT_SECONDS}s"})
        try:
            row = connection.execute(*call(function, **values, dry_run=dry_run)).one()
        finally:
            if not connection.invalidated:
                connection.execute(timeout, {"timeout": f"{STATEMENT_TIMEOUT_SECONDS}s"})
    moved = {
        "chats": row.moved,
        "from": {"first": answers.instant(row.from_first), "last": answers.instant(row.from_last)},
        "to": {"first": answers.instant(row.to_first), "last": answers.instant(row.to_last)},
    }
    return reply({**row.hours, "dry_run": dry_run, "moved": moved})


def _public_holidays(wanted: HolidaysIn) -> dict[dt.date, str]:
    try:
        import holidays
    except ImportError:
        raise Problem(501, "the Python package `holidays` is not installed here") from None
    try:
        found = holidays.country_holidays(wanted.country, subdiv=wanted.subdivision, years=wanted.years)
    except NotImplementedError as error:  # an unknown country or subdivision
        field = "country" if wanted.country not in holidays.list_supported_countries() else "subdivision"
        raise Problem(400, f"{field}: {error}", field_errors(field, str(error))) from None
    return dict(sorted(found.items()))


def _instant(name: str) -> dt.datetime | None:
    """An instant in the query string, with its offset; None: not given, which means now."""
    text = request.args.get(name)
    if text is None:
        return None
    try:
        at = dt.datetime.fromisoformat(
            text.replace(" ", "+") if "T" in text else text
        )  # a + in a query is decoded as a blank
    except ValueError:
        at = dt.datetime.min
    if at.tzinfo is None or not FIRST_YEAR <= at.year <= LAST_YEAR:
        reason = f"expected an instant such as 2026-12-25T09:00:00Z, from {FIRST_YEAR} to {LAST_YEAR}"
        raise Problem(400, f"{name}: {reason}", field_errors(name, reason))
    return at


def _quiet_hours(client_id: int) -> dict[str, Any]:
    with engine().connect() as connection:
        row = connection.execute(query("api/read_quiet_hours"), {"client_id": client_id}).one_or_none()
    if row is None:
        raise Problem(404, "There is no such client, or it has no quiet hours.")
    return {"timezone": row.timezone, "from": row.starts, "to": row.ends}


def _set_quiet_hours(**values: Any) -> None:
    with engine().connect() as connection:
        connection.execute(*call("set_quiet_hours", **values))
