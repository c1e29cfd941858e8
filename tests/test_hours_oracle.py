"""The hours functions in SQL, compared with an independent implementation on Python's time zones."""

from __future__ import annotations

import datetime as dt
import functools
import json
import random
import zoneinfo
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.db import Connection

# Half-hour and two-hour changes, changes at midnight, a summer time below zero, a Ramadan, both hemispheres.
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Auckland", "Pacific/Chatham",
         "America/Santiago", "Africa/Casablanca", "Europe/Dublin", "America/St_Johns", "Asia/Beirut")  # fmt: skip
FIRST, LAST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
# A change of the rules: a day that never was, an offset that changed for good, the end of summer time.
TURNS = [("Pacific/Apia", "2011-12-30"), ("Asia/Pyongyang", "2018-05-04"), ("Europe/Moscow", "2014-10-26"),
         ("America/Caracas", "2016-05-01"),
         ("America/Sao_Paulo", "2019-02-17"), ("Asia/Kathmandu", "1986-01-01")]  # fmt: skip
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
INSTANTS, FEW, MANY = 400, 26, 260  # instants a schedule, and schedules
PERIODS = 8  # of the instants of a schedule whose next change is asked for too
HORIZON = dt.timedelta(days=14)


@functools.cache
def offsets(zone: str, year: int) -> list[tuple[dt.datetime, dt.datetime, dt.timedelta]]:
    """Since when and until when which offset is in force, from the December before to the January after."""
    at = began = dt.datetime(year - 1, 12, 1, tzinfo=dt.UTC)
    last = dt.datetime(year + 1, 2, 1, tzinfo=dt.UTC)
    found, offset = [], at.astimezone(zoneinfo.ZoneInfo(zone)).utcoffset()
    while at < last:
        at += dt.timedelta(minutes=30)
        if at.astimezone(zoneinfo.ZoneInfo(zone)).utcoffset() != offset:
            found.append((began, at, offset))
            began, offset = at, at.astimezone(zoneinfo.ZoneInfo(zone)).utcoffset()
    return [*found, (began, last, offset)]


class Oracle:
    """Asks of one instant at a time, forward from UTC: no set of ranges, no fold, no reading of wall clocks."""

    def __init__(self, hours: dict[str, Any]) -> None:
        self.zone = zoneinfo.ZoneInfo(hours["timezone"])
        self.weekly = hours["weekly"]
        self.dated = {e["date"]: e["spans"] for e in hours["exceptions"] if "date" in e}
        self.yearly = {e["yearly"]: e["spans"] for e in hours["exceptions"] if "yearly" in e}
        self._of_day: dict[dt.date, list[tuple[dt.datetime, dt.datetime]]] = {}

    def instant(self, wall: dt.datetime) -> dt.datetime:
        """The last instant at which the zone's clock shows it; of a time that is skipped, by the clock before."""
        wall = wall.replace(tzinfo=dt.UTC)
        stretches = offsets(self.zone.key, wall.year)
        shown = [wall - offset for since, until, offset in stretches if since <= wall - offset < until]
        if shown:
            return max(shown)
        # Skipped: by the offset in force before the clock jumps over it.
        return next(wall - offset for _, until, offset in reversed(stretches) if until + offset <= wall)

    def spans(self, day: dt.date) -> list[tuple[dt.datetime, dt.datetime]]:
        if day not in self._of_day:
            texts = self.dated.get(day.isoformat())
            if texts is None:
                texts = self.yearly.get(day.strftime("%m-%d"))
            if texts is None:
                texts = self.weekly[DAYS[day.weekday()]]
            midnight = dt.datetime.combine(day, dt.time())
            found = []
            for opens, closes in texts:
                start, end = (dt.timedelta(hours=int(t[:2]), minutes=int(t[3:])) for t in (opens, closes))
                if end <= start:
                    end += dt.timedelta(days=1)
                found.append((self.instant(midnight + start), self.instant(midnight + end)))
            self._of_day[day] = found
        return self._of_day[day]

    def ending(self, at: dt.datetime) -> dt.datetime | None:
        """The end of a span that is open at the instant, the latest; None when closed."""
        today = at.astimezone(self.zone).date()
        ends = [end for back in range(4) for start, end in self.spans(today - dt.timedelta(days=back))
                if start <= at < end]  # fmt: skip
        return max(ends, default=None)

    def next_change(self, at: dt.datetime) -> tuple[bool, dt.datetime | None]:
        """Whether it is open, and until when that stays so; None: beyond the horizon."""
        end = self.ending(at)
        if end is not None:
            while (later := self.ending(end)) is not None and end - at < HORIZON:
                end = later
            return True, end if later is None else None
        first, best = at.astimezone(self.zone).date() - dt.timedelta(days=2), None
        for ahead in range(HORIZON.days + 4):
            day = first + dt.timedelta(days=ahead)
            starts = [start for start, end in self.spans(day) if at < start < end]
            best = min([*starts, best] if best else starts, default=None)
            # A day begins within two of its midnight in UTC, wherever it is.
            if best is not None and dt.datetime.combine(day, dt.time(), dt.UTC) > best + dt.timedelta(days=2):
                return False, best
        return False, None


def put(db: Connection, hours: dict[str, Any]) -> None:
    db.execute("select add_store(3)")
    db.execute("select change_hours(3, %s::json)", [json.dumps(hours)])


def asked(db: Connection, instants: list[dt.datetime]) -> list[tuple[bool, dt.datetime | None]]:
    """What SQL says of them: open, and until when that stays so within the horizon."""
    return db.execute(
        "select o.at >= p.opens_at, case when c.at < o.at + %s then c.at end"
        "  from unnest(%s::timestamptz[]) with ordinality as o(at, place), opening_period(3, o.at) p,"
        "       lateral (select case when o.at >= p.opens_at then p.closes_at else p.opens_at end as at) c"
        " order by place",
        [HORIZON - dt.timedelta(days=2), instants],
    ).fetchall()


def is_open(db: Connection, instants: list[dt.datetime]) -> list[bool]:
    """What SQL says of them by the ranges of the whole time at once."""
    return [
        answer for (answer,) in db.execute(
            "select at <@ ranges from unnest(%s::timestamptz[]) with ordinality as o(at, place),"
            " open_ranges(3, %s, %s) as ranges order by place",
            [instants, (FIRST - dt.timedelta(days=2)).date(), (LAST + dt.timedelta(days=2)).date()])
    ]  # fmt: skip


def compare(db: Connection, hours: dict[str, Any], instants: list[dt.datetime], oracle: Oracle | None = None) -> None:
    put(db, hours)
    oracle = oracle or Oracle(hours)
    limit = HORIZON - dt.timedelta(days=2)
    for at, answer in zip(instants, asked(db, instants), strict=True):
        is_open, change = oracle.next_change(at)
        if change is not None and change >= at + limit:
            change = None
        assert answer == (is_open, change), (hours, at)


def clock_time(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


# Near the changes of the clock, and anywhere.
minute = st.one_of(st.integers(0, 5 * 60), st.integers(0, 24 * 60 - 1))
spans = st.lists(
    st.tuples(minute.map(clock_time), st.one_of(minute, st.just(24 * 60)).map(clock_time)), max_size=3,
    unique_by=lambda span: span[0])  # fmt: skip
days = st.dates(dt.date(2020, 1, 1), dt.date(2024, 12, 31))


@st.composite
def schedules(draw: st.DrawFn) -> tuple[dict[str, Any], random.Random]:
    dated = draw(st.dictionaries(days.map(str), spans, max_size=4))
    yearly = draw(st.dictionaries(days.map(lambda day: day.strftime("%m-%d")), spans, max_size=3))
    hours = {
        "timezone": draw(st.sampled_from(ZONES)),
        "weekly": {day: draw(spans) for day in DAYS},
        "exceptions": [{"date": day, "spans": s} for day, s in dated.items()]
        + [{"yearly": day, "spans": s} for day, s in yearly.items()],
    }
    return hours, draw(st.randoms(use_true_random=False))


def changes_of_offset(zone: str) -> list[dt.datetime]:
    ends = {until for year in range(FIRST.year, LAST.year) for _, until, _ in offsets(zone, year)[:-1]}
    return sorted(end for end in ends if FIRST <= end < LAST)


@pytest.fixture(scope="session")
def turns() -> dict[str, list[dt.datetime]]:
    return {zone: changes_of_offset(zone) for zone in ZONES}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("many", [FEW, pytest.param(MANY, marks=pytest.mark.system)])
def test_random_schedules_at_random_instants(db: Connection, turns: dict[str, list[dt.datetime]], many: int) -> None:
    """Open or closed of each, and of some until when. Many are near a change of the offset, or at an edge of a span."""
    count = 0

    @given(schedules())
    @settings(max_examples=many, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def check(drawn: tuple[dict[str, Any], random.Random]) -> None:
        nonlocal count
        hours, dice = drawn
        oracle = Oracle(hours)
        instants = []
        for number in range(INSTANTS):
            at = FIRST + dice.random() * (LAST - FIRST)
            if number % 3 == 0:
                at = dice.choice(turns[hours["timezone"]]) + dt.timedelta(minutes=dice.randint(-300, 300))
            elif number % 3 == 1 and (edges := oracle.spans(at.astimezone(oracle.zone).date())):
                at = dice.choice(dice.choice(edges)) + dt.timedelta(microseconds=dice.randint(-1, 1))
            instants.append(at)
        compare(db, hours, instants[:PERIODS], oracle)
        for at, answer in zip(instants, is_open(db, instants), strict=True):
            assert answer == (oracle.ending(at) is not None), (hours, at)
        count += len(instants)

    check()
    assert count >= many * INSTANTS * 0.96


NIGHTS = [
    {day: [["02:00", "03:00"]] for day in DAYS},
    {day: [["23:30", "02:30"], ["03:00", "03:15"]] for day in DAYS},
]
ROUND_THE_CLOCK = {day: [["00:00", "24:00"]] for day in DAYS}


@pytest.mark.parametrize("zone", ZONES)
def test_every_change_of_offset_in_five_years(db: Connection, turns: dict[str, list[dt.datetime]], zone: str) -> None:
    assert len(turns[zone]) >= (5 if zone == "America/Santiago" else 9)
    instants = [
        turn + dt.timedelta(minutes=15 * quarter, microseconds=micro)
        for turn in turns[zone]
        for quarter in range(-8, 13)
        for micro in (-1, 0)
    ]
    for weekly in NIGHTS:
        compare(db, {"timezone": zone, "weekly": weekly, "exceptions": []}, instants)
    # Round the clock there is no change, which takes a look at a whole year: open at each of them.
    put(db, {"timezone": zone, "weekly": ROUND_THE_CLOCK, "exceptions": []})
    assert is_open(db, instants) == [True] * len(instants)
    assert asked(db, instants[:2]) == [(True, None)] * 2


@pytest.mark.parametrize(("zone", "day"), TURNS)
def test_a_zone_whose_rules_changed(db: Connection, zone: str, day: str) -> None:
    noon = dt.datetime.fromisoformat(day + "T12:00Z")
    instants = [noon + dt.timedelta(minutes=30 * half) for half in range(-150, 150)]
    for weekly in NIGHTS:
        compare(db, {"timezone": zone, "weekly": weekly, "exceptions": []}, instants)
