"""Answers that would hang the checker or fill its memory: what they cost themselves, and the answers beside them."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from scored import BOMB, MEMORY_BOMB, flags, result, score

from benchmarks.rewards import LATEX
from recipe.egrsd.reward import pool

BOMBS = [
    BOMB,
    "99999999!",
    "\\binom{10^9}{10^8}",
    "(x+y+z)^{200}",
    MEMORY_BOMB,
    "[" * 999,
    "(" * 450 + "1" + ")" * 450,
    "\\frac{1}{" * 90 + "1" + "}" * 90,
    "\\sqrt{" * 120 + "2" + "}" * 120,
    "{" * 450 + "1" + "}" * 450,
    "-" * 999 + "1",
    "x_" * 499 + "x",
]


def test_a_bomb_ends_in_time_and_the_next_answer_is_judged_as_ever(worker):
    """One worker, so that each ordinary answer meets the child that had the bomb, or its successor."""
    for bomb in BOMBS:
        start = time.monotonic()
        assert worker.compare("5", bomb, 0.5) in ("timed_out", "different"), bomb
        assert time.monotonic() - start < 10.0, bomb
        assert worker.compare("1/2", "0.5", 30.0) == "equal", bomb
        assert worker.compare("1/2", "0.6", 30.0) == "different", bomb


def test_a_timed_out_answer_says_so():
    found = result("5", f"\\boxed{{{BOMB}}}", timeout_seconds=0.5)
    assert flags(found) == {"timed_out"} and found["score"] == 0.0 and found["pred"] == BOMB


def test_bombs_among_many_threads_cost_their_own_time_only():
    """300 responses with 3 bombs on 8 threads: the bound is generous, one that never gets its worker back breaks it."""
    ordinary = [("7", "7", 1.0), ("7", "8", 0.0), ("12", "12", 1.0), ("\\frac12", "0.5", 1.0), ("\\frac13", "0.3", 0.0)]
    cases = [ordinary[i % 5] for i in range(300)]
    with ThreadPoolExecutor(8) as threads:

        def seconds(cases) -> float:
            start = time.monotonic()
            got = threads.map(lambda case: score(case[0], case[1], timeout_seconds=2.0), cases)
            assert list(got) == [case[2] for case in cases]
            return time.monotonic() - start

        seconds(cases[:40])
        without = seconds(cases)
        for place in (20, 21, 200):
            cases[place] = ("7", BOMB, 0.0)
        assert seconds(cases) < 2 * without + 3 * (2.0 + 1.0)  # a time-out and a new child for each


@pytest.mark.long
def test_a_hundred_bombs_among_ten_thousand_responses_cost_little_but_their_own_time():
    draw = random.Random(0)
    cases = []
    for number in range(10_000):
        first, second, right = draw.randint(2, 99), draw.randint(100, 199), draw.random() < 0.5
        expected, answer = LATEX[number // 3 % len(LATEX)] if number % 3 == 0 else ("%d%d", "%d%d")
        cases.append((expected % (first, second), answer % (first, second + (not right)), float(right)))
    with_bombs = list(cases)
    for place in draw.sample(range(len(cases)), 100):
        with_bombs[place] = ("7", BOMB, 0.0)

    def seconds(cases) -> float:
        start = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda case: result(case[0], f"\\boxed{{{case[1]}}}", timeout_seconds=1.0), cases))
        for case, one in zip(cases, found, strict=True):
            assert one["timed_out"] if case[1] == BOMB else one["timed_out"] or one["score"] == case[2], case
        late = sum(one["timed_out"] for one in found) - [case[1] for case in cases].count(BOMB)
        assert late <= 20  # on a busy machine an ordinary answer may take its second, too
        return time.monotonic() - start

    plain, bombs = seconds(cases), seconds(with_bombs)
    print(
        f"10,000 responses: {plain:.1f} s; with 100 bombs of 1 s among them: {bombs:.1f} s, {bombs / plain:.2f} times "
        "that"
    )
    assert bombs <= 2 * plain + 100 * 1.0


def test_all_workers_can_hang_at_once_and_again():
    """A plain process pool lets the answers that wait behind the bombs time out with them."""
    cases = [BOMB, BOMB, BOMB, BOMB, "0.5", "0.5", "0.5", "0.5"]
    assert len([case for case in cases if case == BOMB]) >= 2 * pool.WORKERS
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda answer: score("1/2", answer, timeout_seconds=1.5), cases))
    assert found == [0.0] * 4 + [1.0] * 4
    assert pool._idle.qsize() == pool.WORKERS
