"""How long to wait before trying again, the same wherever something is tried again."""

from __future__ import annotations

import random


def backoff_seconds(attempts: int, first: float, longest: float) -> float:
    """After so many failed attempts: doubling from `first` up to `longest`, with jitter: not all come back at once."""
    return min(longest, first * 2.0 ** min(attempts, 20)) * random.uniform(0.5, 1)  # noqa: S311
