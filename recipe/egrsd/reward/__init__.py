r"""1.0 if the last \boxed{...} of a response equals the ground truth, else 0.0. The rules, one by one: docs/answers.md.

    spelling.py    one spelling for what was typed          units.py, words.py   words behind and before numbers
    answers.py     lists, sets, equations, values in it     literals.py           numbers that are written out
    formula.py     a formula as math-verify can read it     judge.py             whether two answers are equal
    pool.py        where that runs: in limited time and memory

math-verify parses formulas and compares sets of solutions.
"""

import functools
import logging
import numbers
import re

from recipe.egrsd.reward import pool
from recipe.egrsd.reward.literals import equal, literal
from recipe.egrsd.reward.spelling import normalise

logger = logging.getLogger(__name__)

MAX_ANSWER_CHARS = 1000  # a longer answer scores 0 (answer_too_long), a longer ground truth is a bad one
RULES = 3  # version of what is equal: prepare_data makes its files anew under another one, evaluate mixes no two
THINK = "<think>"
MAX_PRED_CHARS = 100  # of ``pred``, the answer's beginning, on which verl's maj@N votes


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | int,
    extra_info: dict | None = None,
    *,
    timeout_seconds: float = 5.0,
    **kwargs,
) -> dict[str, float | int | str]:
    """Scores one response; the signature is that of verl's ``reward.custom_reward_function``. Thread-safe.

    A ground truth that is empty, too long, neither str nor int, or unreadable to math-verify when that is asked does
    not stop the run: the response scores 0, ``bad_ground_truth`` is 1, and a warning names the value once per process.

    Args:
        solution_str: the response, any length. Without a closed last ``\\boxed{...}``, outside an open think block, it
            is 0.
        ground_truth: the expected answer: ``7``, ``\\frac12``, or a text whose last ``\\boxed{...}`` holds it.
        timeout_seconds: for this comparison in its worker; waiting for a free worker comes on top.
        data_source, extra_info, kwargs: not used; verl may add its reward model's address and tokenizer.

    Returns:
        The same keys with the same types for every response: ``score`` and ``acc`` (1.0 if equal, else 0.0);
        ``has_answer``, ``answer_too_long``, ``timed_out``, ``crashed`` (the worker died, for instance of a stack
        overflow) and ``bad_ground_truth`` (0 or 1); ``response_chars`` (int); ``pred`` (str, "" without an answer).

    Raises:
        TypeError, ValueError: solution_str is not a str; timeout_seconds is not a positive number of seconds.
        RuntimeError: no worker can be started, so that no score would mean anything.
    """
    if not isinstance(solution_str, str):
        raise TypeError(f"solution_str is {type(solution_str).__name__}, expected the decoded response as a str.")
    if not 0 < timeout_seconds < float("inf"):
        raise ValueError(f"timeout_seconds={timeout_seconds} is no time limit; give seconds, for instance 5.0.")
    answer = last_boxed(said(solution_str))
    outcome = _outcome(answer, expected_answer(ground_truth), timeout_seconds)
    if outcome == "bad_ground_truth":
        _warn_once(repr(ground_truth)[:200])
    return {
        "score": float(outcome == "equal"),
        "acc": float(outcome == "equal"),
        "has_answer": int(answer is not None),
        **{flag: int(outcome == flag) for flag in ("answer_too_long", "timed_out", "crashed", "bad_ground_truth")},
        "response_chars": len(solution_str),
        "pred": (answer or "")[:MAX_PRED_CHARS],
    }


def said(response: str) -> str:
    """The response without a think block that never closes: what stands there was not given as an answer."""
    return response[: response.rfind(THINK)] if response.rfind(THINK) > response.rfind(f"</{THINK[1:]}") else response


def last_boxed(text: str) -> str | None:
    r"""Content of the last \boxed{...}, white space collapsed; None without one, or if its braces do not close."""
    last = ["", *re.split(r"\\boxed\s*\{", text)[1:]][-1]  # "" has no brace that closes
    depth = 1
    for token in re.finditer(r"\\.|[{}]", last, re.DOTALL):  # \\. steps over \{ and \}, which nest nothing
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return " ".join(last[: token.start()].split())
    return None


def expected_answer(ground_truth: object) -> str | None:
    """The answer within a ground truth, white space collapsed; None if it is unusable. A bool is not an int here."""
    if isinstance(ground_truth, numbers.Integral) and not isinstance(ground_truth, bool):
        return str(ground_truth)
    if not isinstance(ground_truth, str):
        return None
    answer = last_boxed(ground_truth) if "\\boxed" in ground_truth else " ".join(ground_truth.split())
    return answer if answer and len(answer) <= MAX_ANSWER_CHARS else None


def _outcome(answer: str | None, expected: str | None, timeout_seconds: float) -> str:
    """``equal``, ``different``, or the flag of compute_score's result that says why there is no verdict."""
    if expected is None:
        return "bad_ground_truth"
    if not answer:
        return "different"
    if len(answer) > MAX_ANSWER_CHARS:
        return "answer_too_long"
    if answer == expected:
        return "equal"
    if (mine := _number(expected)) and (theirs := _number(answer)):
        return "equal" if equal(mine, theirs) else "different"
    return pool.compare(expected, answer, timeout_seconds)


@functools.lru_cache(maxsize=4096)
def _number(text: str):
    return literal(normalise(text))


@functools.cache
def _warn_once(shown: str) -> None:
    logger.warning(
        "The answer checker cannot read the ground truth %s (bad_ground_truth): responses to it score 0.", shown
    )
