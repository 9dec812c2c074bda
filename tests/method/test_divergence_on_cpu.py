"""The divergence over the vocabulary: against float64 loops, its gradient, its memory."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipe.egrsd.engine.head import head_scores
from recipe.egrsd.method.divergence import Divergence, shares, slopes

KINDS = (("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.5), ("jsd", 0.1), ("jsd", 0.9))


def token_divergence(
    student: Tensor, teacher: Tensor, *, kind: str, clip: float | None = None, beta: float = 0.5
) -> Tensor:
    """(N, V) logits, (N, V) logits -> (N,)."""
    smallest = torch.finfo(torch.float32).min  # as the head hands them over
    student, teacher = (logits.clamp(min=smallest).log_softmax(-1) for logits in (student, teacher))
    return shares(student, teacher, kind=kind, clip=clip, beta=beta).sum(-1)


def oracle(student: list[float], teacher: list[float], *, kind: str, clip: float | None, beta: float) -> float:
    """One token, in float64 loops."""

    def softmax(logits: list[float]) -> list[float]:
        powers = [math.exp(logit - max(logits)) for logit in logits]
        return [power / sum(powers) for power in powers]

    def share(p: float, q: float) -> float:
        return 0.0 if p == 0 else p * math.log(p / q)

    total = 0.0
    for s, t in zip(softmax(student), softmax(teacher), strict=True):
        m = (1 - beta) * s + beta * t
        kinds = {"forward_kl": lambda s=s, t=t: share(t, s), "reverse_kl": lambda s=s, t=t: share(s, t)}
        kinds["jsd"] = lambda s=s, t=t, m=m: beta * share(t, m) + (1 - beta) * share(s, m)
        total += kinds[kind]() if clip is None else min(kinds[kind](), clip)
    return total


@st.composite
def logits(draw) -> tuple[list[list[float]], list[list[float]]]:
    tokens, vocabulary = draw(st.integers(1, 4)), draw(st.integers(2, 9))
    row = st.lists(st.floats(-12, 12, width=32), min_size=vocabulary, max_size=vocabulary)
    return tuple(draw(st.lists(row, min_size=tokens, max_size=tokens)) for _ in range(2))


@settings(max_examples=500, deadline=None)
@given(logits(), st.sampled_from(KINDS), st.none() | st.floats(0.001, 1.0))
def test_it_is_the_sum_of_the_definition(rows, kind, clip):
    (student, teacher), (kind, beta) = rows, kind
    ours = token_divergence(torch.tensor(student), torch.tensor(teacher), kind=kind, clip=clip, beta=beta)
    expected = [oracle(*pair, kind=kind, clip=clip, beta=beta) for pair in zip(student, teacher, strict=True)]
    assert ours.tolist() == pytest.approx(expected, abs=1e-5)


def test_by_hand():
    """p_T = (.5, .5), p_S = (.8, .2): .5 ln(.5/.8) + .5 ln(.5/.2) = -.235002 + .458145, and .8 ln 1.6 + .2 ln .4."""
    student, teacher = (torch.tensor([row]).log() for row in ([0.8, 0.2], [0.5, 0.5]))
    assert token_divergence(student, teacher, kind="forward_kl", clip=None).item() == pytest.approx(0.223144, abs=1e-6)
    assert token_divergence(student, teacher, kind="reverse_kl", clip=None).item() == pytest.approx(0.192745, abs=1e-6)
    # Only the positive share is clipped, each entry by itself: -.235002 + .05.
    assert token_divergence(student, teacher, kind="forward_kl", clip=0.05).item() == pytest.approx(-0.185002, abs=1e-6)


def generalised_jsd(student: Tensor, teacher: Tensor, *, beta: float) -> float:
    return token_divergence(student, teacher, kind="jsd", beta=beta).item()


def check_jsd(function: Callable[..., float]) -> None:
    """p_S = (.8, .2), p_T = (.5, .5). beta .25: M = .75 p_S + .25 p_T = (.725, .275); KL(p_T || M) = .5 ln(.5/.725)
    + .5 ln(.5/.275) = -.185782 + .298919; KL(p_S || M) = .8 ln(.8/.725) + .2 ln(.2/.275) = .078752 - .063691;
    .25 * .113137 + .75 * .015062 = .039580. beta .75: M = (.575, .425); KL(p_T || M) = -.069881 + .081259 = .011379;
    KL(p_S || M) = .264193 - .150754 = .113439; .75 * .011379 + .25 * .113439 = .036894."""
    student, teacher = (torch.tensor([row]).log() for row in ([0.8, 0.2], [0.5, 0.5]))
    for beta, expected in ((0.25, 0.039580), (0.75, 0.036894)):
        assert function(student, teacher, beta=beta) == pytest.approx(expected, abs=2e-6)


def test_the_generalised_jsd_by_hand():
    check_jsd(generalised_jsd)


def test_its_limits_are_the_two_kls():
    """Divided by beta towards 0, by 1 - beta towards 1; at one half it is the same from both sides. In float64."""
    student, teacher = (torch.tensor([row], dtype=torch.float64).log() for row in ([0.8, 0.2], [0.5, 0.5]))

    def of(kind: str, beta: float = 0.5, *, student: Tensor = student, teacher: Tensor = teacher) -> float:
        return shares(student, teacher, kind=kind, clip=None, beta=beta).sum().item()

    assert of("jsd", 1e-7) / 1e-7 == pytest.approx(of("forward_kl"), abs=1e-6)
    assert of("jsd", 1 - 1e-7) / 1e-7 == pytest.approx(of("reverse_kl"), abs=1e-6)
    assert of("jsd") == pytest.approx(of("jsd", student=teacher, teacher=student), abs=1e-15)
    assert of("jsd", 0.3) == pytest.approx(of("jsd", 0.7, student=teacher, teacher=student), abs=1e-15)


def _to_middle(student: Tensor, teacher: Tensor, beta: float, of_teacher: float, of_student: float) -> float:
    s, t = student.exp(), teacher.exp()
    m = (1 - beta) * s + beta * t
    return (of_teacher * (t * (t / m).log()).sum() + of_student * (s * (s / m).log()).sum()).item()


JSD_MUTANTS: dict[str, Callable[..., float]] = {
    "symmetric whatever beta": lambda s, t, *, beta: generalised_jsd(s, t, beta=0.5),
    "teacher and student swapped": lambda s, t, *, beta: generalised_jsd(t, s, beta=beta),
    "beta the student's share": lambda s, t, *, beta: generalised_jsd(s, t, beta=1 - beta),
    "weights swapped": lambda s, t, *, beta: _to_middle(s, t, beta, 1 - beta, beta),
    "weights of one half": lambda s, t, *, beta: _to_middle(s, t, beta, 0.5, 0.5),
    "middle of one half": lambda s, t, *, beta: (
        beta * _to_middle(s, t, 0.5, 1, 0) + (1 - beta) * _to_middle(s, t, 0.5, 0, 1)
    ),
    "divided by beta": lambda s, t, *, beta: generalised_jsd(s, t, beta=beta) / beta,
}


@pytest.mark.parametrize("mutant", JSD_MUTANTS)
def test_the_check_of_the_generalised_jsd_rejects(mutant):
    with pytest.raises(AssertionError):
        check_jsd(JSD_MUTANTS[mutant])


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


def test_oasiss_example_of_the_clip():
    """p_S = (.8, .1, .1), p_T = (.1, .1, .8), which wants the third token: shares .1 ln(.1/.8) = -.207944, 0, and
    .8 ln 8 = 1.663553, cut to .05: -.157944. What is left of p_T is .1 + .1 = .2: the gradient is
    .2 p_S - (.1, .1, 0) = (.06, -.08, .02), and a step lowers the third token's logit, too."""
    student, teacher = (torch.tensor([row]).log() for row in ([0.8, 0.1, 0.1], [0.1, 0.1, 0.8]))
    of_entry = shares(student, teacher, kind="forward_kl", clip=0.05)
    assert of_entry[0].tolist() == pytest.approx([-0.207944, 0, 0.05], abs=1e-6)
    hidden, weight = student.clone().requires_grad_(), torch.eye(3)
    also = Divergence(teacher, weight, temperature=1.0, kind="forward_kl", clip=0.05)
    scores = head_scores(hidden, weight, None, torch.tensor([0]), temperature=1.0, also=also)
    scores[0, 1].backward()
    assert scores[0, 1].item() == pytest.approx(-0.157944, abs=1e-6)
    assert hidden.grad[0].tolist() == pytest.approx([0.06, -0.08, 0.02], abs=1e-6)


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("clip", [None, 0.05])
def test_slopes_are_the_derivative_of_shares(kind, beta, clip):
    torch.manual_seed(0)
    student, teacher = (torch.randn(20, 50, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    student.requires_grad_()
    s, t = student.exp(), teacher.exp()
    m = ((1 - beta) * s + beta * t).log()
    of_entry = {"forward_kl": t * (teacher - student), "reverse_kl": s * (student - teacher),
                "jsd": beta * t * (teacher - m) + (1 - beta) * s * (student - m)}[kind]  # fmt: skip
    (expected,) = torch.autograd.grad((of_entry if clip is None else of_entry.clamp(max=clip)).sum(), student)
    found = slopes(student.detach(), teacher, kind=kind, clip=clip, beta=beta)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_no_gradient_reaches_the_teacher():
    hidden, weight = torch.randn(3, 4).requires_grad_(), torch.randn(6, 4).requires_grad_()
    also = Divergence(hidden, weight, temperature=1.1, kind="reverse_kl", clip=None)
    student = torch.randn(3, 4).requires_grad_()
    scores = head_scores(student, torch.randn(6, 4), None, torch.arange(3), temperature=1.1, also=also)
    scores.sum().backward()
    assert student.grad.abs().max() > 0 and hidden.grad is None and weight.grad is None
