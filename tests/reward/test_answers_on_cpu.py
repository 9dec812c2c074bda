"""recipe/egrsd/reward: what is equal. The examples of docs/answers.md, real failures by kind, sweeps over real
ground truths."""

import json
import random
import re
from pathlib import Path

import pytest
import sympy
from answer_cases import KINDS
from answer_sweeps import changed, rewritten
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from runs import ROOT

from recipe.egrsd.reward import compute_score
from recipe.egrsd.reward.judge import outcome
from recipe.egrsd.reward.literals import literal
from recipe.egrsd.reward.spelling import normalise

GOLDS = json.loads((Path(__file__).parent / "golds.json").read_text())
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


@pytest.mark.parametrize("answer", [r"n \text{ odd } 5\%", r"5 \text{ or so } 7\%"])
def test_words_before_a_percent_sign_end_no_judgement(answer):
    assert (outcome("5", answer), outcome(answer, answer)) == ("different", "equal")


@pytest.mark.parametrize(("ground_truth", "answer"), [case[1:3] for case in CASES if case[3]], ids=ascii)
def test_equality_of_values_has_no_side(ground_truth, answer):
    """What is right one way round is right the other way round, but for what the page says of names and points."""
    one_sided = (
        "=" in ground_truth + answer
        or "," in ground_truth + answer
        or r"\fbox" in answer
        or "text" in ground_truth + answer
    )
    assert one_sided or verdict(answer, ground_truth) == 1


# ---------------------------------------------------------------- sweeps over real ground truths

READABLE, RIGHT = 0.99, 0.99


SAME_VALUE = {  # what is still equal with one letter changed, by why it should be; nothing else may be
    "the capital of a sentence": [
        ("A likelihood function cannot take negative values.", "a likelihood"),
        ("About 30.12 miles per hour", "about"),
        ("Infinite number of solutions", "infinite"),
        ("The last column must not be a pivot column. The remaining columns must each be pivot columns.", "the last"),
        (
            "The last column must not be a pivot column. The remaining columns must each be pivot columns.",
            "The last column must not be a pivot column. the",
        ),
        ("There is no solution.", "there"),
        ("This is not a subspace.", "this"),
        ("diverges", "Diverges"),
        (r"\text{Monday}", r"\text{monday"),
        (r"\text{converges}", r"\text{Converges"),
        (r"\text{linearly independent}", r"\text{Linearly"),
        (r"\text{The series diverges.}", r"\text{the"),
        (r"\text{No solution}", r"\text{no"),
        (r"\text{No solution}", r"\text{No Solution}"),
    ],
    "the capital of a unit or noun": [
        (r"10 \mathrm{ft} x 18 \mathrm{ft}", r"10 \mathrm{Ft} x"),
        (r"10 \mathrm{ft} x 18 \mathrm{ft}", r"10 \mathrm{ft} x 18 \mathrm{Ft"),
        (r"17 \text{ students}", r"17 \text{ Students}"),
        (r"6 \text{ hours}", r"6 \text{ Hours}"),
        (r"45 \text{ degrees}", r"45 \text{ Degrees}"),
        (r"\frac{8}{3} \text{ square units}", r"\frac{8}{3} \text{ Square units}"),
        (r"\frac{8}{3} \text{ square units}", r"\frac{8}{3} \text{ square Units}"),
        (r"0.012 \text{ mol/L}", r"0.012 \text{ mol/l}"),
    ],
    "am, AM and Am are one half of the day": [("1:58 am", "1:58 Am"), ("1:30 pm", "1:30 Pm")],
    "a digit of the base 16": [("3A7_{16}", "3a7_{16}")],
}


def is_no_change(ground_truth: str, other: str) -> bool:
    """E for the e of 3e8 is the same notation; the rest is listed."""
    notation = re.fullmatch(r"-?[0-9.]+[eE]-?[0-9]+", ground_truth) and ground_truth.lower() == other.lower()
    listed = [start for pairs in SAME_VALUE.values() for whole, start in pairs if whole == ground_truth]
    return bool(notation) or other.startswith(tuple(listed))


def sweep(answers: list[str], pick=lambda made: made) -> dict[str, list]:
    """Verdicts on what is made of each answer, those against expectation listed."""
    found = {"unreadable": [], "mistaken": [], "refused": [], "changed": [], "rewritten": []}
    for answer in answers:
        if outcome(answer, "0") == "bad_ground_truth":
            found["unreadable"].append(answer)
            continue
        for other in pick(list(changed(answer))):
            found["changed"].append(other)
            if judged(answer, other) == "equal" and not is_no_change(answer, other):
                found["mistaken"].append(f"{answer} -> {other}")
        for name, other in pick(list(rewritten(answer))):
            found["rewritten"].append(other)
            if judged(answer, other) != "equal":
                found["refused"].append(f"{name}: {answer} -> {other}")
    return found


def check_sweep(answers: list[str], found: dict[str, list]) -> None:
    figures = {name: len(listed) for name, listed in found.items()}
    print(len(answers), "ground truths", figures, *found["unreadable"], *found["mistaken"], *found["refused"], sep="\n")
    assert figures["unreadable"] <= (1 - READABLE) * len(answers), found["unreadable"]
    assert not found["mistaken"]
    assert figures["refused"] <= (1 - RIGHT) * figures["rewritten"], found["refused"]


def test_some_changes_of_some_real_ground_truths():
    draw = random.Random(0)
    answers = draw.sample(ALL, 150)
    check_sweep(answers, sweep(answers, lambda made: draw.sample(made, min(2, len(made)))))


@pytest.mark.long
@pytest.mark.parametrize("file", ["golds.json", "golds_of_our_own.json"])
def test_every_change_of_every_ground_truth(file):
    sources = json.loads((Path(__file__).parent / file).read_text())
    answers = [" ".join(answer.split()) for listed in sources.values() for answer in listed]
    check_sweep(answers, sweep(answers))


# ---------------------------------------------------------------- any text

SIGNS = r"""
\frac { } ( ) [ ] \{ \} 1 2 0.5 1,000 x e i \text{ and or 5 , ; . ^ _ \sqrt | \% % $ \le = < > ' ° √ ½ ² cm \pm \sin
\sum & \\ \begin{pmatrix} \end{pmatrix} \begin{cases} \end{cases} \to \lim \int d / : - + * ! \cdot \overline{3} 1e3
\log \mid \cup \approx \boxed \circ ~ \,
"""
TEXTS = st.lists(st.sampled_from([*SIGNS.split(), " "]), max_size=12).map("".join)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(TEXTS, TEXTS)
def test_any_text_has_one_spelling_and_a_verdict(first, second):
    assert normalise(normalise(first)) == normalise(first)
    literal(normalise(first))
    assert outcome(first, second) in ("equal", "different", "bad_ground_truth")
    if outcome(first, "x") != "bad_ground_truth":
        assert outcome(first, f"{first} ") == "equal"


# ---------------------------------------------------------------- generated formulas, with sympy as the judge's judge

few = settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
x, y, R, gamma = sympy.symbols("x y R gamma", real=True)
NAMES = st.sampled_from([x, y, R, gamma, sympy.pi, sympy.E, sympy.Rational(2, 3)])
LEAVES = st.one_of(st.integers(-12, 12).map(sympy.Integer), NAMES)
FORMULAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] / pair[1] if pair[1] != 0 else pair[0]),
        st.tuples(inner, st.integers(2, 4)).map(lambda pair: pair[0] ** pair[1]),
        inner.map(lambda one: sympy.sqrt(one**2 + 1)),
        inner.map(sympy.sin),
        inner.map(lambda one: sympy.log(one**2 + 2)),
    ),
    max_leaves=6,
)
FORMS = [sympy.expand, sympy.factor, sympy.together, lambda formula: formula]


def finite(formula: sympy.Expr) -> bool:
    return not formula.has(sympy.zoo, sympy.nan, sympy.oo) and len(sympy.latex(formula)) < 200


def differ(first: sympy.Expr, second: sympy.Expr) -> bool:
    """By exact or high-precision arithmetic at a point of the test's own."""
    point = {x: sympy.Rational(7, 5), y: sympy.Rational(-9, 4), R: sympy.Rational(13, 11), gamma: sympy.Rational(5, 3)}
    return abs((first - second).subs(point).evalf(50)) > sympy.Float("1e-30", 50)


@few
@given(FORMULAS, st.sampled_from(FORMS))
def test_a_generated_formula_in_another_form_is_equal(formula, form):
    assume(finite(formula) and finite(form(formula)))
    assert judged(sympy.latex(formula), sympy.latex(form(formula))) == "equal"


@few
@given(FORMULAS, st.randoms(use_true_random=False))
def test_a_generated_formula_with_another_number_or_name_is_not(formula, draw):
    assume(finite(formula))
    old = draw.choice(sorted(formula.atoms(sympy.Integer, sympy.Symbol), key=str) or [sympy.Integer(1)])
    other = formula.xreplace({old: old + 1 if old.is_Integer else {x: y, y: R, R: gamma, gamma: x}[old]})
    assume(finite(other) and differ(formula, other))
    assert judged(sympy.latex(formula), sympy.latex(other)) == "different"
