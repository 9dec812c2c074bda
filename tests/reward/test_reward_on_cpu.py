"""The score of an answer: which are equal, which differ, and inputs that are no answers."""

import logging

import numpy as np
import pytest
from scored import flags, result, score

from recipe.egrsd import reward
from recipe.egrsd.reward import compute_score, expected_answer

EQUAL = [
    ("7", "7"),
    ("7", "007"),
    ("7", "+7"),
    ("7", "7.0"),
    ("7", "$7$"),
    (7, "7"),
    (np.int64(7), "7"),
    ("-5", "\u22125"),  # a typographic minus sign
    ("1/2", "0.5"),
    ("0.5", "\\frac{1}{2}"),
    ("\\frac12", "1/2"),
    ("\\frac{3}{4}", "\\dfrac34"),
    ("The answer is $\\boxed{\\frac{1}{2}}$.", "0.5"),
    ("\\boxed{3} and then \\boxed{4}", "4"),
    ("1000", "1,000"),
    ("1,000", "1000"),
    ("3\\frac{1}{2}", "3.5"),
    ("2^{100}", "1267650600228229401496703205376"),
    ("10\\text{ cm}", "10"),
    ("\\$5", "5"),
    ("90", "90^\\circ"),
    ("50\\%", "50\\%"),
    ("50\\%", "50"),
    ("50\\%", "\\frac{1}{2}"),
    ("5", "x=5"),
    ("x=5", "5"),
    ("x=5", "x = 5"),
    ("\\text{(A)}", "A"),
    ("\\text{Evelyn}", "\\mathrm{Evelyn}"),
    ("\\text{north  west}", "\\text{north west}"),
    ("\\sqrt{2}", "2^{1/2}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("3+4i", "4i+3"),
    ("\\{1,2,3\\}", "\\{3,1,2\\}"),
    ("1,2", "\\{2,1\\}"),
    ("[1,2)", "[1, 2)"),
    ("(-\\infty,2)\\cup(3,\\infty)", "(3,\\infty)\\cup(-\\infty,2)"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
]

DIFFERENT = [
    ("7", "8"),
    ("7", "77"),
    ("7", "-7"),
    ("7", ""),
    ("7", "  "),
    ("7", "seven"),
    ("7", "7, 8"),
    ("7", "7 or 8"),
    ("12", "1 2"),  # white space is collapsed, never removed
    ("5", "\u096b"),  # a digit, but not one of 0-9
    ("1/2", "0.51"),
    ("1/2", "@#! \\frac{1}{2}"),  # nothing is picked out of what cannot be read
    ("\\pi", "3.14"),
    ("50\\%", "0.05"),
    ("0.5", "0.5\\%"),
    ("\\text{yes}", "\\text{no}"),
    ("x=5", "y=5"),
    ("(1,2)", "[1,2]"),
    ("\\{1,2\\}", "\\{1,3\\}"),
    ("3", "\\frac{1}{0}"),
    ("3", "\\frac{6}"),
    ("3", "\\left( 3"),
    ("3", "\\unknowncommand{3}"),
    ("3", "\x00"),
    ("3", "\ud800"),  # a lone surrogate
    ("3", "\u56db \U0001f600"),
]


@pytest.mark.parametrize(("ground_truth", "answer"), EQUAL, ids=str)
def test_equal_answers_score_one(ground_truth, answer):
    assert score(ground_truth, answer) == 1.0


@pytest.mark.parametrize(("ground_truth", "answer"), DIFFERENT, ids=ascii)
def test_different_answers_score_zero(ground_truth, answer):
    found = result(ground_truth, f"\\boxed{{{answer}}}")
    assert found["score"] == 0.0 and not flags(found)


UNUSABLE = [None, "", "  ", 7.0, True, ["7"], {"a": 7}, np.array(["7"]), "\\boxed{7", "9" * 1001]


@pytest.mark.parametrize("ground_truth", UNUSABLE, ids=lambda value: repr(value)[:10])
def test_an_unusable_ground_truth_scores_zero_and_is_named_once(ground_truth, caplog):
    reward._warn_once.cache_clear()
    assert expected_answer(ground_truth) is None
    with caplog.at_level(logging.WARNING, logger="recipe.egrsd.reward"):
        for response in ("\\boxed{7}", "no answer", "\\boxed{None}", "\\boxed{True}"):
            assert flags(result(ground_truth, response)) == {"bad_ground_truth"}
    assert len(caplog.messages) == 1 and repr(ground_truth)[:100] in caplog.text


def test_a_ground_truth_that_math_verify_cannot_read_leaves_the_identical_answer(caplog):
    reward._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="recipe.egrsd.reward"):
        assert score("north-west", "north-west") == 1.0
        assert not caplog.messages
        for answer in ("south", "7"):
            assert flags(result("north-west", f"\\boxed{{{answer}}}")) == {"bad_ground_truth"}
    assert len(caplog.messages) == 1 and "'north-west'" in caplog.text


@pytest.mark.parametrize("response", [None, 7, b"\\boxed{7}", ["\\boxed{7}"]])
def test_a_response_that_is_no_string_is_an_error(response):
    with pytest.raises(TypeError, match=f"solution_str is {type(response).__name__}"):
        compute_score("math", response, "7")


@pytest.mark.parametrize("timeout_seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_time_limit_that_is_none_is_an_error(timeout_seconds):
    with pytest.raises(ValueError, match="timeout_seconds"):
        compute_score("math", "\\boxed{7}", "7", timeout_seconds=timeout_seconds)
