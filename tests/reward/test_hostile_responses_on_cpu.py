"""Bad outputs: none crashes, none hangs, each gets 0 points."""

import time
from collections import Counter

import hostile

from recipe.egrsd.reward import compute_score

TIMEOUT = 0.5


def test_every_response_gets_0_within_its_time():
    """One after the other, so that a response which harmed the next one would show."""
    assert len([*hostile.responses()]) >= 190
    outcomes = Counter()
    for name, text in hostile.responses():
        started = time.monotonic()
        result = compute_score("math", text, "7", timeout_seconds=TIMEOUT)
        assert result["score"] == 0.0, name
        assert time.monotonic() - started < TIMEOUT + 5.0, name  # 5 s: a killed worker is replaced on a slow machine
        outcomes.update(flag for flag in ("timed_out", "crashed", "answer_too_long", "has_answer") if result[flag])
        assert compute_score("math", "\\boxed{\\frac{14}{2}}", "7", timeout_seconds=30.0)["score"] == 1.0, name
    assert outcomes["timed_out"] > 0
    assert outcomes["answer_too_long"] > 0
