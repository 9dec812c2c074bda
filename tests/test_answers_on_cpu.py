"""recipe/egrsd/reward: what is equal. The examples of docs/answers.md, real failures by kind, sweeps over real ground truths."""

import json
import random
import re
from pathlib import Path

import pytest
from answer_cases import KINDS
from answer_sweeps import changed, rewritten
from runs import ROOT

from recipe.egrsd.reward import compute_score
from recipe.egrsd.reward.judge import outcome
from recipe.egrsd.reward.spelling import normalise

GOLDS = {source: answers for source, answers in json.loads((Path(__file__).parent / "golds.json").read_text()).items()}
ALL = [" ".join(answer.split()) for answers in GOLDS.values() for answer in answers]


def verdict(ground_truth: str, answer: str) -> int:
    """1 or 0, by the door that verl uses."""
    return int(compute_score("math", f"\\boxed{{{answer}}}", ground_truth, timeout_seconds=60.0)["score"])


def judged(ground_truth: str, answer: str) -> str:
    """The judge in this process, which is what the worker calls; identical texts do not reach it."""
    answer = " ".join(answer.split())
    return "equal" if answer == ground_truth else outcome(ground_truth, answer) if answer else "different"


EXAMPLES = re.findall(r"^\| `(.+?)` \| `(.+?)` \| ([01]) \|", (ROOT / "docs/answers.md").read_text(), re.M)


def test_the_page_has_its_examples():
    assert len(EXAMPLES) > 80


@pytest.mark.parametrize(("ground_truth", "answer", "right"), EXAMPLES, ids=str)
def test_every_example_of_the_page_is_so(ground_truth, answer, right):
    assert verdict(ground_truth, answer) == int(right)


CASES = [(kind, *case) for kind, cases in KINDS.items() for case in cases]


@pytest.mark.parametrize(("kind", "ground_truth", "answer", "right"), CASES, ids=ascii)
def test_reported_failures_by_kind(kind, ground_truth, answer, right):
    assert verdict(ground_truth, answer) == right


@pytest.mark.parametrize(("ground_truth", "answer"), [case[1:3] for case in CASES if case[3]], ids=ascii)
def test_equality_of_values_has_no_side(ground_truth, answer):
    """What is right one way round is right the other way round, but for what the page says of names and points."""
    one_sided = "=" in ground_truth + answer or "," in ground_truth + answer or r"\fbox" in answer or "text" in ground_truth + answer
    assert one_sided or verdict(answer, ground_truth) == 1
