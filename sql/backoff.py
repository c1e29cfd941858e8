"""Exponential backoff with jitter, the same wherever something is retried."""

from __future__ import annotations

import random


def backoff_seconds(attempts: int, first: float, longest: float) -> float:
    """The wait after so many failed attempts: it doubles from `first` up to `longest`; jitter spreads the retries."""
    return min(longest, first * 2.0 ** min(attempts, 20)) * random.uniform(0.5, 1)  # noqa: S311
