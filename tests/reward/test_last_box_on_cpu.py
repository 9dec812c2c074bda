"""Which part of a response is its answer: the last closed box, outside of a think block that never closes."""

import time

import pytest
from scored import flags, result, score

from recipe.egrsd import reward
from recipe.egrsd.reward import last_boxed

BOXES = {
    "\\boxed{7}": "7",
    "\\boxed {7}": "7",
    "\\boxed\n{ 7 }": "7",
    "$$\\boxed{7}$$ is what goes into \\boxed.": "7",
    "first \\boxed{1}, then \\boxed{2}": "2",
    "\\boxed{1}, no: \\boxed{}": "",
    "\\boxed{\\frac{1}{\\sqrt{2}}} }}": "\\frac{1}{\\sqrt{2}}",
    "\\boxed{\\{1, 2\\}}": "\\{1, 2\\}",
    "\\boxed{\\left\\{ x \\right.}": "\\left\\{ x \\right.",
    "\\boxed{1 \\\\ 2\\\\}": "1 \\\\ 2\\\\",
    "\\boxed{a\n  b}": "a b",
    "": None,
    "7": None,
    "boxed{7}": None,
    "\\boxed7": None,
    "\\boxed{7": None,
    "\\boxed{7\\}": None,
    "\\boxed{1} and, cut off by the length limit, \\boxed{\\frac{2}": None,
}


@pytest.mark.parametrize("text", BOXES, ids=ascii)
def test_the_last_box_is_the_answer(text):
    assert last_boxed(text) == BOXES[text]
    found = result("7", text)
    assert found["has_answer"] == (BOXES[text] is not None) and found["pred"] == (BOXES[text] or "")
    assert found["score"] == (BOXES[text] == "7") and not flags(found)


def test_a_wrong_last_box_is_not_saved_by_an_earlier_right_one():
    assert result("7", "\\boxed{7} or rather \\boxed{8}")["score"] == 0.0
    assert result("7", "\\boxed{8} or rather \\boxed{7}")["score"] == 1.0


THINKING = {
    "<think>maybe \\boxed{7}. But wait, check": None,
    "<think>maybe \\boxed{7}</think> So \\boxed{8}": "8",
    "<think>\\boxed{7}</think>": "7",
    "it began in the prompt: \\boxed{8}</think> \\boxed{7}": "7",
    "<think>a</think> \\boxed{8} <think> or \\boxed{7}": "8",
    "\\boxed{7} <think>": "7",
    "<think><think>a</think> \\boxed{7}": "7",
}


@pytest.mark.parametrize("text", THINKING)
def test_a_box_in_a_think_block_that_never_closes_is_no_answer(text):
    found = result("7", text)
    assert found["has_answer"] == (THINKING[text] is not None) and found["pred"] == (THINKING[text] or "")
    assert found["score"] == (THINKING[text] == "7")


LONG = ["x" * 100_000, "\\boxed" * 20_000, "\\boxed{" * 15_000, "{" * 100_000, "\\boxed{" + "\\" * 99_999]


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:10].strip())
def test_a_long_text_costs_no_more_than_reading_it(text):
    start = time.monotonic()
    assert result("7", text)["has_answer"] == 0
    assert result("7", text + " \\boxed{7}")["score"] == 1.0
    assert time.monotonic() - start < 5.0


def test_a_long_answer_is_refused_whole():
    limit = reward.MAX_ANSWER_CHARS
    assert score("1" * limit, "1" * limit) == 1.0
    for answer in ("1" * (limit + 1), "7" + " + 0" * 25_000, "\\frac{1}{" * 1000 + "1" + "}" * 1000):
        found = result("7", f"\\boxed{{{answer}}}")
        assert found["score"] == 0.0 and flags(found) == {"answer_too_long"}
        assert found["pred"] == answer[: reward.MAX_PRED_CHARS]
