"""The fields of a store's hours: spans, days, exceptions. An error names the exact path of the value at fault."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import zoneinfo
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from sql.fields import WEEKDAYS, Name, Payload

MINUTES_OF_DAY = 24 * 60
MINUTES_OF_WEEK = 7 * MINUTES_OF_DAY
MOST_EXCEPTIONS = 1000

Start = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
End = Annotated[str, StringConstraints(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")]
Span = tuple[Start, End]
Spans = Annotated[list[Span], Field(max_length=48)]


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})


def _zone(name: str) -> str:
    if name not in _zones():
        raise PydanticCustomError("zone", "unknown time zone: expected an IANA name such as Europe/Berlin")
    return name


def _plain_date(value: Any) -> Any:
    """ISO text only; pydantic would read a number as seconds since 1970."""
    if isinstance(value, str) and len(value) == 10:
        return value
    raise PydanticCustomError("date", "expected a date such as 2026-12-25")


def _day_of_year(value: str) -> str:
    try:
        dt.date.fromisoformat(f"2000-{value}")
    except ValueError:
        raise PydanticCustomError("day", "expected a month and a day such as 12-25") from None
    return value


Zone = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_zone)]
Date = Annotated[dt.date, BeforeValidator(_plain_date)]


class Weekly(BaseModel, extra="forbid"):
    """The spans that start on each weekday. One that ends at or before its start runs past midnight."""

    mon: Spans = []
    tue: Spans = []
    wed: Spans = []
    thu: Spans = []
    fri: Spans = []
    sat: Spans = []
    sun: Spans = []


class ExceptionDay(BaseModel, extra="forbid"):
    """A day with its own spans, or closed: a date, or a day of every year."""

    date: Date | None = None
    yearly: Annotated[str, StringConstraints(pattern=r"^[0-9]{2}-[0-9]{2}$"), AfterValidator(_day_of_year)] | None = (
        None
    )
    spans: Spans
    name: Name | None = None

    @model_validator(mode="after")
    def _one_day(self) -> ExceptionDay:
        if (self.date is None) == (self.yearly is None):
            raise PydanticCustomError("day", "expected either a date or yearly")
        return self


class HoursIn(BaseModel, extra="forbid"):
    """A store's hours. `exceptions` take precedence over `weekly`, and a `date` over a `yearly` one."""

    timezone: Zone
    weekly: Weekly
    exceptions: Annotated[list[ExceptionDay], Field(max_length=MOST_EXCEPTIONS)] = []
    pace_per_minute: Annotated[int, Field(ge=1, le=100_000, strict=True)] | None = Field(
        None, description="held chats released per minute; null: all at once"
    )
    away_notice: Payload | None = Field(
        None,
        description="sent in answer to a client's first held chat of a closed period; "
        "`{{ opens_at }}` is replaced by the next opening",
    )
    urgent: list[Literal["client", "operator"]] = Field(
        [], description="the parties that may send urgent chats, at any hour"
    )

    @model_validator(mode="after")
    def _no_overlaps(self) -> HoursIn:
        week = [
            (WEEKDAYS.index(day) * MINUTES_OF_DAY + _minutes(opens), _length((opens, closes)), f"weekly.{day}[{index}]")
            for day in WEEKDAYS
            for index, (opens, closes) in enumerate(getattr(self.weekly, day))
        ]
        _reject_overlaps(week, MINUTES_OF_WEEK)
        seen: dict[tuple[dt.date | None, str | None], int] = {}
        for number, day in enumerate(self.exceptions):
            if seen.setdefault((day.date, day.yearly), number) != number:
                raise _at(f"exceptions[{number}]", f"is the same day as exceptions[{seen[day.date, day.yearly]}]")
            _reject_overlaps(
                [
                    (_minutes(span[0]), _length(span), f"exceptions[{number}].spans[{index}]")
                    for index, span in enumerate(day.spans)
                ]
            )
        return self


class HolidaysIn(BaseModel, extra="forbid"):
    """The public holidays to close on."""

    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] = Field(description="ISO 3166-1, two letters")
    subdivision: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 -]{1,40}$")] | None = None
    years: Annotated[list[Annotated[int, Field(ge=2000, le=2100, strict=True)]], Field(min_length=1, max_length=10)]


class QuietHoursIn(BaseModel, extra="forbid"):
    """A client's quiet hours, in the client's time zone."""

    timezone: Zone
    starts: Start = Field(alias="from")
    ends: Start = Field(alias="to")

    @model_validator(mode="after")
    def _not_all_day(self) -> QuietHoursIn:
        if self.starts == self.ends:
            raise _at("to", "must differ from `from`: otherwise nothing is ever sent")
        return self


def _at(path: str, reason: str) -> PydanticCustomError:
    return PydanticCustomError("field", "{reason}", {"field": path, "reason": reason})


def _minutes(time: str) -> int:
    return int(time[:2]) * 60 + int(time[3:])


def _length(span: Span) -> int:
    opens, closes = _minutes(span[0]), _minutes(span[1])
    return closes - opens if closes > opens else closes - opens + MINUTES_OF_DAY


def _reject_overlaps(spans: list[tuple[int, int, str]], around: int | None = None) -> None:
    """Rejects spans, each (start, length, path), that overlap; `around`: the length of the week, where it wraps."""
    spans = sorted(spans)
    pairs = list(itertools.pairwise(spans))
    if around is not None and len(spans) > 1:
        pairs.append((spans[-1], (spans[0][0] + around, *spans[0][1:])))
    for (start, length, path), (next_start, _, next_path) in pairs:
        if start + length > next_start:
            raise _at(next_path, f"overlaps {path}")
