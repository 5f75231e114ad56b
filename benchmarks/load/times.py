"""What a list of durations comes down to."""

from __future__ import annotations

from collections.abc import Sequence


def milliseconds(nanoseconds: Sequence[int]) -> dict[str, float]:
    """The median and the 99th percentile; empty for none."""
    if not nanoseconds:
        return {}
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    return {f"p{part}_ms": ordered[round(last * part / 100)] / 1e6 for part in (50, 99)}
