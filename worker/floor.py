"""Where the next claim starts in each lane of the queue, and when a lane is claimed from its very start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# The claim starts where the last one ended, and so skips the dead rows in front. A chat that commits more than a
# second after its due time may be below the floor. A claim from the very start of the lane, a full look, finds it. One
# is due every second, or less often while walking the dead rows takes long (a session keeps an old snapshot open, or
# the release of many held chats has left a million dead rows).
LIVE_START: dict[str, Any] = {"live_floor": "-infinity"}
HELD_START: dict[str, Any] = {"held_floor": "(-infinity,0,0)"}  # a queue_position; this program never looks into it
FULL_LOOK_SECONDS = 1.0
LONGEST_LOOK_SECONDS = 60.0  # between two, however long they take: a chat below the floor waits for the next
LIVE_LOOK_SHARE = 20  # full looks take at most one part in so many of the time
HELD_LOOK_SHARE = (
    400  # here much less: live chats wait for it, and at 20 it dominated their p99 while chats were released
)


@dataclass
class FullLook:
    """When a lane is next claimed from its start."""

    start: dict[str, Any]  # the lane's floor then
    share: int
    due_at: float = 0.0  # monotonic

    def schedule(self, now: float, took: float) -> None:
        """Schedules the next one, after one that took this many seconds, whether it succeeded or not."""
        self.due_at = now + min(LONGEST_LOOK_SECONDS, max(FULL_LOOK_SECONDS, took * self.share))


class Floor:
    """The floors of both lanes. It knows no clock and no database: `now` is monotonic, reports are of send_chats()."""

    def __init__(self) -> None:
        self._floors = LIVE_START | HELD_START
        self._full_looks = (FullLook(LIVE_START, LIVE_LOOK_SHARE), FullLook(HELD_START, HELD_LOOK_SHARE))
        self._under_way: list[FullLook] = []
        self._started = 0.0

    def start_claim(self, now: float) -> dict[str, Any]:
        """Where this claim starts, as arguments of send_chats(); in the lanes whose full look is due, at the start."""
        self._started = now
        self._under_way = [look for look in self._full_looks if now >= look.due_at]
        floors = dict(self._floors)
        for look in self._under_way:
            floors |= look.start
        return floors

    def end_claim(self, now: float) -> None:
        """Schedules the next full looks, also after a claim that failed."""
        for look in self._under_way:
            look.schedule(now, now - self._started)

    def advance(self, report: Any) -> None:
        """Raises each lane's floor to where the claim ended; back to the start if it has met chats below the floor."""
        if report.below_floor:
            self._reset()
            return
        if report.live_floor is not None:
            self._floors["live_floor"] = report.live_floor
        if report.held_floor is not None:
            self._floors["held_floor"] = report.held_floor

    def fail(self, timed_out: bool) -> None:
        """After a failed claim, back to the start of both lanes, since it is unknown what was committed.

        After a timeout the floors stay: a full look that timed out among the dead rows would time out again.
        """
        if not timed_out:
            self._reset()

    def _reset(self) -> None:
        self._floors = LIVE_START | HELD_START
