"""The paper's kinds of tokens, by the teacher's entropy now and ahead. Needs no torch: the report counts them, too.

lock   the teacher is certain now
fork   it is uncertain now and at each of the next tokens
pivot  it is uncertain now and certain at one of them: what the lookahead is for
mid    anything else
"""

from typing import Any

KINDS = ("mid", "lock", "fork", "pivot")
HIGH, LOW = 0.17, 0.01
"""Of the entropy scale: uncertain from, certain up to; the bounds of the paper's figure A5."""
PERCENTILES = 70, 50
"""Uncertain from, certain up to that percentile of the entropies; the bounds of its figure A4."""
MARKING_WINDOW = 3
"""Tokens that the kinds look ahead in a run whose gate does not."""


def kinds_of(now: Any, ahead: Any, *, high: float, low: float) -> Any:
    """Indices of KINDS, int64.

    Args:
        now: array or tensor of the teacher's entropies.
        ahead: the same shape, the smallest of now and the next tokens.
        high, low: bounds in the same unit, low < high, or equal: certain wins.
    """
    certain, uncertain = now <= low, (now >= high) & (now > low)
    fork, pivot = uncertain & (ahead >= high), uncertain & (ahead <= low)
    return certain * KINDS.index("lock") + fork * KINDS.index("fork") + pivot * KINDS.index("pivot")
