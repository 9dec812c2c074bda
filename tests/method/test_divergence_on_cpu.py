"""The divergence over the vocabulary: against float64 loops, its gradient, its memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipe.egrsd.engine.head import head_scores
from recipe.egrsd.method.divergence import Divergence, shares, slopes

KINDS = ("forward_kl", "reverse_kl")


def token_divergence(student: Tensor, teacher: Tensor, *, kind: str, clip: float | None) -> Tensor:
    """(N, V) logits, (N, V) logits -> (N,)."""
    smallest = torch.finfo(torch.float32).min  # as the head hands them over
    student, teacher = (logits.clamp(min=smallest).log_softmax(-1) for logits in (student, teacher))
    return shares(student, teacher, kind=kind, clip=clip).sum(-1)


def oracle(student: list[float], teacher: list[float], *, kind: str, clip: float | None) -> float:
    """One token, in float64 loops."""

    def softmax(logits: list[float]) -> list[float]:
        powers = [math.exp(logit - max(logits)) for logit in logits]
        return [power / sum(powers) for power in powers]

    p_student, p_teacher = softmax(student), softmax(teacher)
    left, right = (p_teacher, p_student) if kind == "forward_kl" else (p_student, p_teacher)
    total = 0.0
    for p, q in zip(left, right, strict=True):
        share = 0.0 if p == 0 else p * math.log(p / q)
        total += share if clip is None else min(share, clip)
    return total


@st.composite
def logits(draw) -> tuple[list[list[float]], list[list[float]]]:
    tokens, vocabulary = draw(st.integers(1, 4)), draw(st.integers(2, 9))
    row = st.lists(st.floats(-12, 12, width=32), min_size=vocabulary, max_size=vocabulary)
    return tuple(draw(st.lists(row, min_size=tokens, max_size=tokens)) for _ in range(2))


@settings(max_examples=500, deadline=None)
@given(logits(), st.sampled_from(KINDS), st.none() | st.floats(0.001, 1.0))
def test_it_is_the_sum_of_the_definition(rows, kind, clip):
    student, teacher = rows
    ours = token_divergence(torch.tensor(student), torch.tensor(teacher), kind=kind, clip=clip)
    expected = [oracle(*pair, kind=kind, clip=clip) for pair in zip(student, teacher, strict=True)]
    assert ours.tolist() == pytest.approx(expected, abs=1e-5)


def test_by_hand():
    """p_T = (.5, .5), p_S = (.8, .2): .5 ln(.5/.8) + .5 ln(.5/.2) = -.235002 + .458145, and .8 ln 1.6 + .2 ln .4."""
    student, teacher = (torch.tensor([row]).log() for row in ([0.8, 0.2], [0.5, 0.5]))
    assert token_divergence(student, teacher, kind="forward_kl", clip=None).item() == pytest.approx(0.223144, abs=1e-6)
    assert token_divergence(student, teacher, kind="reverse_kl", clip=None).item() == pytest.approx(0.192745, abs=1e-6)
    # Only the positive share is clipped, each entry by itself: -.235002 + .05.
    assert token_divergence(student, teacher, kind="forward_kl", clip=0.05).item() == pytest.approx(-0.185002, abs=1e-6)


def test_a_clipped_entry_turns_its_own_gradient_around():
    """p_T = (.9, .1), p_S = (.5, .5). The first entry's gradient is p_S - p_T = -.4: a step of descent raises its
    logit.

    Clipped at .05 (its share is .9 ln 1.8 = .529), the other entry's alone is left, .1 p_S = +.05: a step lowers it.
    OPSD's published clip, and why docs/experiments.md has a row without it.
    """
    student, teacher = (torch.tensor([row]).log() for row in ([0.5, 0.5], [0.9, 0.1]))
    for clip, expected in ((None, -0.4), (0.05, 0.05)):
        hidden, weight = student.clone().requires_grad_(), torch.eye(2)
        also = Divergence(teacher, weight, temperature=1.0, kind="forward_kl", clip=clip)
        scores = head_scores(hidden, weight, None, torch.tensor([0]), temperature=1.0, also=also)
        scores[:, 1].sum().backward()
        assert hidden.grad[0, 0].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 0.05])
def test_slopes_are_the_derivative_of_shares(kind, clip):
    torch.manual_seed(0)
    student, teacher = (torch.randn(20, 50, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    student.requires_grad_()
    left, right = (teacher, student) if kind == "forward_kl" else (student, teacher)
    of_entry = left.exp() * (left - right)
    (expected,) = torch.autograd.grad((of_entry if clip is None else of_entry.clamp(max=clip)).sum(), student)
    torch.testing.assert_close(slopes(student.detach(), teacher, kind=kind, clip=clip), expected, atol=1e-12, rtol=0)


def test_no_gradient_reaches_the_teacher():
    hidden, weight = torch.randn(3, 4).requires_grad_(), torch.randn(6, 4).requires_grad_()
    also = Divergence(hidden, weight, temperature=1.1, kind="reverse_kl", clip=None)
    student = torch.randn(3, 4).requires_grad_()
    scores = head_scores(student, torch.randn(6, 4), None, torch.arange(3), temperature=1.1, also=also)
    scores.sum().backward()
    assert student.grad.abs().max() > 0 and hidden.grad is None and weight.grad is None
